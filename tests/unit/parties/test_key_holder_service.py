"""The key holder: who gets a key, whose embedding is taken, what is recorded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import (
    AuditUnavailable,
    CorruptFileError,
    KeymixerError,
    NotFound,
    SignatureError,
    Unavailable,
)
from core.keys import possession_tag
from core.orthogonal import GENERATOR
from core.rpc.errors import RemoteError
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from core.sealing import (
    DELIVERY,
    RECOVERY,
    ExpiredError,
    SealContext,
    SealingKey,
    fingerprint,
    open_sealed,
    signed_part,
)
from core.statements import (
    DESTRUCTION,
    ENVELOPE,
    EXPORT,
    ISSUE,
    DestructionReceipt,
    verify,
)
from parties.audit import Reporter
from parties.key_holder.delivery import Delivery
from parties.key_holder.derivations import Derivations
from parties.key_holder.errors import DerivationsBusyError
from parties.key_holder.issuing import Issue
from parties.key_holder.service import KeyHolderService, Office
from parties.key_holder.vault import Vault
from protos import key_holder_pb2 as pb
from protos import registry_pb2
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    NO_CONTEXT,
    ORCHESTRATOR_ID,
    OTHER_OWNER_ID,
    OTHER_PROVIDER_ID,
    OWNER_ID,
    PROVIDER_ID,
    SERVER_ID,
    FakeAuditLog,
    FakeRegistry,
    Release,
    public,
)
from tests.unit.parties.strongroom import NOW_MS, opened, seed_of

LIFETIME_MS = 600_000
SEALING_KEY = SealingKey.generate()
RECOVERY_KEY = SealingKey.generate()
PEN = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass
class FakeInferenceServer:
    delivered: list[Issue] = field(default_factory=list)
    idempotency_keys: list[str] = field(default_factory=list)

    def store_issued_model(self, issue: Issue, idempotency_key: str) -> None:
        self.delivered.append(issue)
        self.idempotency_keys.append(idempotency_key)


@dataclass
class KeyHouse:
    """A key holder with stand-ins around it."""

    folder: Path
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    audit: FakeAuditLog = field(default_factory=FakeAuditLog)
    server: FakeInferenceServer = field(default_factory=FakeInferenceServer)
    release: Release = field(default_factory=Release)
    recovery_key: bytes = b""
    derivations: Derivations = field(default_factory=Derivations)

    def __post_init__(self) -> None:
        self.registry.enrol(OWNER_ID, sealing_key=SEALING_KEY)
        self.registry.enrol(OTHER_OWNER_ID, sealing_key=SealingKey.generate())
        self.registry.enrol(OTHER_PROVIDER_ID, Ed25519PrivateKey.generate())
        self.release.register(self.registry)

    @contextmanager
    def asked_by(self, caller: SpiffeId) -> Iterator[KeyHolderService]:
        """The service, called by `caller`; refusals are in the log afterwards."""
        with (
            opened(self.folder) as vault,
            Reporter(self.audit) as reporter,
            acting_as(caller),
        ):
            delivery = Delivery(
                vault,
                self.registry,
                PEN,
                KEY_HOLDER_ID,
                600.0,
                lambda: NOW_MS,
                self.recovery_key,
            )
            office = Office(
                vault,
                delivery,
                PEN,
                self.registry,
                self.server,
                self.audit,
                reporter,
                self.derivations,
            )
            yield KeyHolderService(office)

    def draw(self) -> pb.CreateKeyVersionResponse:
        request = pb.CreateKeyVersionRequest(
            key_id="k",
            version=1,
            owner=str(OWNER_ID),
            model=MODEL,
            patch_size=4,
            channels=3,
        )
        with self.asked_by(ORCHESTRATOR_ID) as service:
            return service.CreateKeyVersion(request, NO_CONTEXT)

    def fetch(
        self, caller: SpiffeId = OWNER_ID, sealing_key: SealingKey = SEALING_KEY
    ) -> pb.FetchSealedKeyResponse:
        request = pb.FetchSealedKeyRequest(
            key_id="k", version=1, sealing_key=sealing_key.public_bytes()
        )
        with self.asked_by(caller) as service:
            return service.FetchSealedKey(request, NO_CONTEXT)

    def prove(self, tag: bytes, caller: SpiffeId = OWNER_ID) -> None:
        request = pb.ProvePossessionRequest(key_id="k", version=1, tag=tag)
        with self.asked_by(caller) as service:
            service.ProvePossession(request, NO_CONTEXT)

    def store(
        self,
        content: bytes | None = None,
        caller: SpiffeId = PROVIDER_ID,
        version: int = 1,
    ) -> None:
        request = pb.StoreEmbeddingRequest(
            model=MODEL,
            model_version=version,
            embedding=self.release.embedding if content is None else content,
        )
        with self.asked_by(caller) as service:
            service.StoreEmbedding(request, NO_CONTEXT)

    def destroy(self, version: int = 1) -> pb.DestroyKeyVersionResponse:
        request = pb.DestroyKeyVersionRequest(
            key_id="k", version=version, idempotency_key="7/destroy/holder"
        )
        with self.asked_by(ORCHESTRATOR_ID) as service:
            return service.DestroyKeyVersion(request, NO_CONTEXT)

    def export(self) -> pb.ExportKeyVersionResponse:
        request = pb.ExportKeyVersionRequest(key_id="k", version=1)
        with self.asked_by(ORCHESTRATOR_ID) as service:
            return service.ExportKeyVersion(request, NO_CONTEXT)

    def seed(self) -> bytes:
        with opened(self.folder) as vault:
            return seed_of(vault, key_id="k")


@pytest.fixture
def house(tmp_path: Path) -> KeyHouse:
    house = KeyHouse(tmp_path, recovery_key=RECOVERY_KEY.public_bytes())
    house.draw()
    return house


def context(**changes: Any) -> SealContext:
    fields: dict[str, Any] = {
        "federation": "demo",
        "key_holder": str(KEY_HOLDER_ID),
        "owner": str(OWNER_ID),
        "key_id": "k",
        "version": 1,
        "generator": GENERATOR,
        "recipient_fingerprint": fingerprint(SEALING_KEY.public_bytes()),
        "expires_at_ms": NOW_MS + LIFETIME_MS,
    }
    return SealContext(**{**fields, **changes})


def export_context(expires_at_ms: int) -> SealContext:
    return context(
        recipient_fingerprint=fingerprint(RECOVERY_KEY.public_bytes()),
        expires_at_ms=expires_at_ms,
        purpose=RECOVERY,
    )


def lent(vault: Vault) -> bytes:
    with vault.open_embedding(MODEL, 1) as content:
        return bytes(content)


def kind_of(caught: pytest.ExceptionInfo[KeymixerError]) -> str:
    return caught.value.kind


def test_creating_a_key_version_twice_gives_the_same_answer(house: KeyHouse) -> None:
    assert house.draw() == house.draw()
    assert house.draw().generator == GENERATOR
    assert len(house.draw().commitment) == 32


def test_the_owner_opens_its_envelope_and_proves_it(house: KeyHouse) -> None:
    sealed = house.fetch()
    part = signed_part(sealed.envelope, context())
    verify(public(PEN), ENVELOPE, part, sealed.signature)
    seed = open_sealed(sealed.envelope, SEALING_KEY, context(), now_ms=NOW_MS)
    house.prove(possession_tag(seed, key_id="k", version=1, owner=str(OWNER_ID)))

    assert house.seed() == seed
    assert house.registry.confirmed == [("k", 1)]
    assert sealed.expires_at_ms == NOW_MS + LIFETIME_MS


def test_an_envelope_ends_after_ten_minutes(house: KeyHouse) -> None:
    envelope = house.fetch().envelope
    late = NOW_MS + LIFETIME_MS

    with pytest.raises(ExpiredError):
        open_sealed(envelope, SEALING_KEY, context(), now_ms=late)


def test_a_delivery_is_on_record(house: KeyHouse) -> None:
    house.fetch()

    expected = {"key_id": "k", "key_version": "1", "caller": str(OWNER_ID)}
    assert house.audit.of_kind("key.fetched") == [expected]


def test_no_audit_no_key(house: KeyHouse) -> None:
    house.audit.away = True

    with pytest.raises(AuditUnavailable):
        house.fetch()


def test_an_owner_cannot_fetch_anothers_key(house: KeyHouse) -> None:
    with pytest.raises(RemoteError) as caught:
        house.fetch(OTHER_OWNER_ID)

    assert kind_of(caught) == "NotAllowed"
    (refusal,) = house.audit.of_kind("refused")
    assert refusal == {
        "kind": "NotAllowed",
        "method": "/keymixer.v1.KeyHolderService/FetchSealedKey",
        "key_id": "k",
        "key_version": "1",
        "caller": str(OTHER_OWNER_ID),
    }


def test_a_revoked_owner_fetches_nothing(house: KeyHouse) -> None:
    house.registry.party(str(OWNER_ID)).state = "revoked"

    with pytest.raises(RemoteError) as caught:
        house.fetch()
    assert kind_of(caught) == "NotAllowed"


def test_a_registry_that_names_another_sealing_key_is_found(house: KeyHouse) -> None:
    """Whoever runs the registry could otherwise have every key sealed to itself."""
    house.registry.enrol(OWNER_ID, sealing_key=SealingKey.generate())

    with pytest.raises(RemoteError) as caught:
        house.fetch()
    assert kind_of(caught) == "Signature"


def test_a_stolen_certificate_alone_fetches_no_key(house: KeyHouse) -> None:
    """The thief's own sealing key is not the registered one."""
    with pytest.raises(RemoteError) as caught:
        house.fetch(sealing_key=SealingKey.generate())
    assert kind_of(caught) == "Signature"


def test_an_owner_without_a_sealing_key_fetches_nothing(house: KeyHouse) -> None:
    house.registry.enrol(OWNER_ID)

    with pytest.raises(RemoteError) as caught:
        house.fetch()
    assert kind_of(caught) == "Signature"


def test_a_wrong_proof_confirms_nothing(house: KeyHouse) -> None:
    others = possession_tag(
        house.seed(), key_id="k", version=1, owner=str(OTHER_OWNER_ID)
    )
    for tag in (b"", bytes(32), others):
        with pytest.raises(RemoteError) as caught:
            house.prove(tag)
        assert kind_of(caught) == "Signature"

    assert house.registry.confirmed == []


def test_nobody_proves_possession_for_another(house: KeyHouse) -> None:
    tag = possession_tag(house.seed(), key_id="k", version=1, owner=str(OWNER_ID))
    with pytest.raises(RemoteError) as caught:
        house.prove(tag, OTHER_OWNER_ID)

    assert kind_of(caught) == "NotAllowed"


def test_an_embedding_of_a_registered_release_is_taken_and_recorded(
    house: KeyHouse,
) -> None:
    house.store()
    house.store()

    recorded = house.audit.of_kind("embedding.stored")[0]
    assert recorded["digest"] == house.release.manifest.embedding_digest
    # One name for both records: the log keeps the first one only.
    names = [e.event_id for e in house.audit.events if e.kind == "embedding.stored"]
    assert names == [f"{MODEL}/1/embedding.stored"] * 2


def test_no_audit_no_embedding(house: KeyHouse) -> None:
    house.audit.away = True

    with pytest.raises(AuditUnavailable):
        house.store()

    with opened(house.folder) as vault, pytest.raises(NotFound):
        lent(vault)
    house.audit.away = False
    house.store()
    with opened(house.folder) as vault:
        assert lent(vault) == house.release.embedding


def test_an_embedding_that_the_manifest_does_not_name_is_refused(
    house: KeyHouse,
) -> None:
    with pytest.raises(RemoteError) as caught:
        house.store(Release(seed=2).embedding)
    assert kind_of(caught) == "Signature"


def test_an_embedding_of_an_unknown_version_is_refused(house: KeyHouse) -> None:
    with pytest.raises(NotFound):
        house.store(version=2)


def test_an_embedding_from_another_provider_is_refused(house: KeyHouse) -> None:
    with pytest.raises(RemoteError) as caught:
        house.store(caller=OTHER_PROVIDER_ID)
    assert kind_of(caught) == "NotAllowed"


def test_a_manifest_the_provider_did_not_sign_is_refused(house: KeyHouse) -> None:
    """The registry is not taken at its word."""
    house.release.register(house.registry, version=2, signature=bytes(64))

    with pytest.raises(RemoteError) as caught:
        house.store(version=2)
    assert kind_of(caught) == "Signature"


def test_an_embedding_that_does_not_fit_its_architecture_is_corrupt(
    house: KeyHouse,
) -> None:
    """Signed and registered, and wrong all the same."""
    house.release.__dict__["embedding"] = b"not safetensors"
    house.release.register(house.registry, version=2)

    with pytest.raises(CorruptFileError):
        house.store(version=2)


def test_prepared_and_sent_are_the_same_model(house: KeyHouse) -> None:
    house.store()
    names: dict[str, Any] = {
        "key_id": "k",
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
    }
    with house.asked_by(ORCHESTRATOR_ID) as service:
        prepared = service.PrepareIssuedModel(
            pb.PrepareIssuedModelRequest(**names, idempotency_key="7/prepare/holder"),
            NO_CONTEXT,
        )
        service.SendIssuedModel(
            pb.SendIssuedModelRequest(**names, idempotency_key="7/send/holder"),
            NO_CONTEXT,
        )
    (sent,) = house.server.delivered
    verify(public(PEN), ISSUE, sent.statement, sent.signature)

    assert (sent.statement, sent.signature) == (prepared.statement, prepared.signature)
    assert house.server.idempotency_keys == ["7/send/holder"]


def test_a_destroyed_key_is_gone_for_its_owner_too(house: KeyHouse) -> None:
    for _ in range(2):
        house.destroy()

    for call in (house.fetch, house.draw, house.export):
        with pytest.raises(RemoteError) as caught:
            call()
        assert kind_of(caught) == "KeyDestroyed"


def test_a_destruction_is_receipted_by_the_key_holder(house: KeyHouse) -> None:
    committed = house.draw().commitment
    destroyed = house.destroy()

    verify(public(PEN), DESTRUCTION, destroyed.receipt, destroyed.signature)
    receipt = DestructionReceipt.from_bytes(destroyed.receipt)
    assert (receipt.key_id, receipt.key_version) == ("k", 1)
    assert receipt.commitment == committed.hex()
    assert destroyed == house.destroy()


def test_what_never_was_is_destroyed_without_a_receipt(house: KeyHouse) -> None:
    assert house.destroy(version=9) == pb.DestroyKeyVersionResponse()


def test_no_key_is_exported_while_no_recovery_key_is_pinned(house: KeyHouse) -> None:
    house.recovery_key = b""

    with pytest.raises(RemoteError) as caught:
        house.export()
    assert kind_of(caught) == "NoRecoveryKey"
    assert house.audit.of_kind("refused")[0]["kind"] == "NoRecoveryKey"


def test_the_recovery_key_opens_an_export_whenever(house: KeyHouse) -> None:
    sealed = house.export()
    expected = export_context(sealed.expires_at_ms)

    part = signed_part(sealed.envelope, expected)
    verify(public(PEN), EXPORT, part, sealed.signature)
    hundred_years_ms = 100 * 365 * 86_400_000
    opened_seed = open_sealed(
        sealed.envelope, RECOVERY_KEY, expected, now_ms=NOW_MS + hundred_years_ms
    )
    assert opened_seed == house.seed()


def test_an_export_does_not_pass_for_a_delivery(house: KeyHouse) -> None:
    """Neither does the envelope open as one, nor does the signature count for one."""
    sealed = house.export()
    as_delivery = replace(export_context(sealed.expires_at_ms), purpose=DELIVERY)

    with pytest.raises(SignatureError):
        open_sealed(sealed.envelope, RECOVERY_KEY, as_delivery, now_ms=NOW_MS)
    part = signed_part(sealed.envelope, export_context(sealed.expires_at_ms))
    with pytest.raises(SignatureError):
        verify(public(PEN), ENVELOPE, part, sealed.signature)


def test_a_delivery_does_not_pass_for_an_export(house: KeyHouse) -> None:
    sealed = house.fetch()

    with pytest.raises(SignatureError):
        open_sealed(
            sealed.envelope, SEALING_KEY, context(purpose=RECOVERY), now_ms=NOW_MS
        )


def test_an_export_is_on_record_or_is_not_made(house: KeyHouse) -> None:
    house.export()
    expected = {"key_id": "k", "key_version": "1", "caller": str(ORCHESTRATOR_ID)}
    assert house.audit.of_kind("key.sealed_for_recovery") == [expected]

    house.audit.away = True
    with pytest.raises(AuditUnavailable):
        house.export()


def test_while_derivations_wait_one_more_is_told_to_come_again(
    house: KeyHouse,
) -> None:
    """And what derives nothing is answered meanwhile."""
    house.store()
    house.derivations = Derivations(running=1, waiting=0)
    names: dict[str, Any] = {"key_id": "k", "key_version": 1, "model": MODEL}
    request = pb.PrepareIssuedModelRequest(**names, model_version=1)
    with house.derivations.turn(), house.asked_by(ORCHESTRATOR_ID) as service:
        with pytest.raises(DerivationsBusyError):
            service.PrepareIssuedModel(request, NO_CONTEXT)
        house.fetch()

    with house.asked_by(ORCHESTRATOR_ID) as service:
        assert service.PrepareIssuedModel(request, NO_CONTEXT).statement
    # It may work later: nothing was refused.
    assert not house.audit.of_kind("refused")


def test_an_unknown_key_version_is_not_found_and_that_is_on_record(
    house: KeyHouse,
) -> None:
    with house.asked_by(OWNER_ID) as service, pytest.raises(NotFound):
        service.FetchSealedKey(
            pb.FetchSealedKeyRequest(key_id="k", version=9), NO_CONTEXT
        )

    assert house.audit.of_kind("refused")[0]["kind"] == "NotFound"


@pytest.mark.parametrize(
    "state", ["compromised", "destroy_scheduled", "destroyed", "unknown"]
)
def test_a_key_that_no_owner_may_hold_is_neither_sealed_nor_confirmed(
    house: KeyHouse, state: str
) -> None:
    house.draw()
    with opened(house.folder) as vault:
        seed = seed_of(vault, key_id="k")
    tag = possession_tag(seed, key_id="k", version=1, owner=str(OWNER_ID))
    house.registry.key_states["k", 1] = state

    for ask in (house.fetch, lambda: house.prove(tag)):
        with pytest.raises(RemoteError) as caught:
            ask()
        assert caught.value.kind == "KeyRefused"
    assert not house.registry.confirmed
    assert not house.audit.of_kind("key.fetched")


@pytest.mark.parametrize("state", ["pre_active", "active", "retiring", "suspended"])
def test_a_key_that_its_owner_may_hold_is_sealed(house: KeyHouse, state: str) -> None:
    house.draw()
    house.registry.key_states["k", 1] = state

    assert house.fetch().envelope


def test_nothing_is_sealed_while_the_registry_is_away(house: KeyHouse) -> None:
    house.draw()
    house.registry.away = True

    with pytest.raises(Unavailable):
        house.fetch()
    assert not house.audit.of_kind("key.fetched")


def fetched(house: KeyHouse, state: str, key_state: str) -> Issue:
    """What a replica of the inference server gets."""
    house.draw()
    house.store()
    names: dict[str, Any] = {
        "key_id": "k",
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
    }
    house.registry.issued = [registry_pb2.IssuedModel(**names, state=state)]
    house.registry.key_states["k", 1] = key_state
    with house.asked_by(SERVER_ID) as service:
        sent = pb.SendIssuedModelRequest(**names)
        service.SendIssuedModel(sent, NO_CONTEXT)
        answer = service.FetchIssuedModel(
            pb.FetchIssuedModelRequest(**names), NO_CONTEXT
        )
    return Issue(answer.statement, answer.signature, answer.embedding)


@pytest.mark.parametrize(("state", "key"), [("live", "active"), ("retiring",) * 2])
def test_a_replica_fetches_what_the_others_were_sent(
    house: KeyHouse, state: str, key: str
) -> None:
    fresh = fetched(house, state, key)

    assert house.server.delivered == [fresh]


@pytest.mark.parametrize(
    ("state", "key"),
    [
        ("pending", "active"),
        ("gone", "active"),
        ("live", "suspended"),
        ("retiring", "destroy_scheduled"),
        ("live", "compromised"),
    ],
)
def test_nobody_fetches_what_may_not_be_served(
    house: KeyHouse, state: str, key: str
) -> None:
    """Whoever has every issued model of a server is near the plain embedding."""
    with pytest.raises(RemoteError) as caught:
        fetched(house, state, key)

    assert kind_of(caught) == "KeyRefused"

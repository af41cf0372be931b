"""What the inference server is given: what it takes, keeps, reloads and deletes."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.canonical import canonical
from core.convmixer import take_apart
from core.errors import (
    AuditUnavailable,
    CorruptFileError,
    KeymixerError,
    KeyRefusedError,
    NotFound,
    PeerUnavailable,
    TooLargeError,
)
from core.keys import derive_key
from core.rpc.errors import RemoteError
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from core.statements import ISSUE, IssueStatement, sign
from core.transform import embedding_digest, transform_embedding
from core.wire import dump_tensors
from parties.audit import Reporter
from parties.inference_server.catalogue import Catalogue
from parties.inference_server.engines.torch_engine import TorchEngine
from parties.inference_server.errors import UploadError
from parties.inference_server.intake import Intake
from parties.inference_server.service import ModelStoreService
from parties.inference_server.stock import Stock
from parties.inference_server.store import IssuedName, ModelName, ModelStore
from protos import model_store_pb2 as pb
from protos import registry_pb2
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    NO_CONTEXT,
    ORCHESTRATOR_ID,
    OTHER_PROVIDER_ID,
    OWNER_ID,
    PROVIDER_ID,
    FakeAuditLog,
    FakeRegistry,
    Release,
)

LIMIT = 1 << 20
PEN = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NAME = IssuedName("k", 1, MODEL, 1)


@dataclass
class Shop:
    """The inference server's store with stand-ins around it."""

    folder: Path
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    audit: FakeAuditLog = field(default_factory=FakeAuditLog)
    release: Release = field(default_factory=Release)
    key_holder: SpiffeId | None = None
    catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self.registry.enrol(KEY_HOLDER_ID, PEN)
        self.registry.enrol(OTHER_PROVIDER_ID, Ed25519PrivateKey.generate())
        self.release.register(self.registry)
        self.start()

    def start(self) -> None:
        """Start afresh from what is on disk."""
        self.catalogue = Catalogue(TorchEngine(threads=1))
        with Reporter(self.audit) as reporter:
            Stock(self.intake(), reporter, self.key_holder).take()

    def intake(self) -> Intake:
        return Intake(ModelStore(self.folder), self.catalogue, self.registry, LIMIT)

    @contextmanager
    def asked_by(self, caller: SpiffeId) -> Iterator[ModelStoreService]:
        with Reporter(self.audit) as reporter, acting_as(caller):
            yield ModelStoreService(self.intake(), self.audit, reporter)

    def upload(
        self, content: bytes | None = None, caller: SpiffeId = PROVIDER_ID
    ) -> None:
        whole = self.release.backbone if content is None else content
        with self.asked_by(caller) as service:
            service.StoreBackbone(chunks(whole), NO_CONTEXT)

    def statement(self, **changes: Any) -> IssueStatement:
        sizes = self.release.architecture
        said = IssueStatement(
            key_id="k",
            key_version=1,
            owner=str(OWNER_ID),
            model=MODEL,
            model_version=1,
            digest=embedding_digest(self.transformed()).hex(),
            patch_size=sizes.patch_size,
            channels=sizes.channels,
            hidden=sizes.hidden,
        )
        return replace(said, **changes)

    def transformed(self) -> np.ndarray:
        key = derive_key(bytes(32), key_id="k", version=1, patch_size=4, channels=3)
        return transform_embedding(self.release.weight, key)

    def list_as_issued(self, state: str = "pending", **changes: Any) -> None:
        said = self.statement()
        fields: dict[str, Any] = {
            "key_id": said.key_id,
            "key_version": said.key_version,
            "model": said.model,
            "model_version": said.model_version,
            "owner": said.owner,
            "digest": bytes.fromhex(said.digest),
            "state": state,
        }
        self.registry.issued = [registry_pb2.IssuedModel(**{**fields, **changes})]

    def deliver(
        self,
        said: IssueStatement | None = None,
        weight: np.ndarray | None = None,
        pen: Ed25519PrivateKey = PEN,
        idempotency_key: str = "",
    ) -> None:
        statement = (said or self.statement()).to_bytes()
        sent = self.transformed() if weight is None else weight
        request = pb.StoreIssuedModelRequest(
            statement=statement,
            signature=sign(pen, ISSUE, statement),
            embedding=dump_tensors({"weight": sent}),
            idempotency_key=idempotency_key,
        )
        with self.asked_by(KEY_HOLDER_ID) as service:
            service.StoreIssuedModel(request, NO_CONTEXT)

    def delete(self, idempotency_key: str = "") -> None:
        request = pb.DeleteIssuedModelRequest(
            key_id="k",
            key_version=1,
            model=MODEL,
            model_version=1,
            idempotency_key=idempotency_key,
        )
        with self.asked_by(ORCHESTRATOR_ID) as service:
            service.DeleteIssuedModel(request, NO_CONTEXT)

    def serves(self) -> bool:
        try:
            self.catalogue.find(MODEL, None, "k", 1)
        except KeymixerError:
            return False
        return True


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """With a backbone and one issued model."""
    shop.upload()
    shop.list_as_issued()
    shop.deliver()
    return shop


def chunks(
    content: bytes, *, model: str = MODEL, version: int = 1, size: int = 1000
) -> Iterator[pb.StoreBackboneRequest]:
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    yield pb.StoreBackboneRequest(
        model=model, model_version=version, chunk=parts[0] if parts else b""
    )
    for part in parts[1:]:
        yield pb.StoreBackboneRequest(chunk=part)


def kind_of(caught: pytest.ExceptionInfo[KeymixerError]) -> str:
    return caught.value.kind


def test_a_backbone_is_taken_recorded_and_served(shop: Shop) -> None:
    shop.upload()

    assert [1] == shop.catalogue.versions(MODEL)
    recorded = shop.audit.of_kind("backbone.stored")[0]
    assert recorded["digest"] == shop.release.manifest.backbone_digest


def test_a_backbone_may_be_uploaded_again(shop: Shop) -> None:
    shop.upload()
    shop.upload()

    assert [1] == shop.catalogue.versions(MODEL)


def test_a_backbone_that_the_manifest_does_not_name_is_refused(shop: Shop) -> None:
    for content in (Release(seed=2).backbone, shop.release.backbone[:-4], b""):
        with pytest.raises(RemoteError) as caught:
            shop.upload(content)
        assert kind_of(caught) == "Signature"

    assert not list(shop.folder.rglob("*.safetensors"))


def test_another_providers_model_version_is_refused(shop: Shop) -> None:
    with pytest.raises(RemoteError) as caught:
        shop.upload(caller=OTHER_PROVIDER_ID)
    assert kind_of(caught) == "NotAllowed"


def test_a_manifest_the_provider_did_not_sign_is_refused(shop: Shop) -> None:
    shop.registry.versions.clear()
    shop.release.register(shop.registry, signature=bytes(64))

    with pytest.raises(RemoteError) as caught:
        shop.upload()
    assert kind_of(caught) == "Signature"


def test_a_backbone_of_an_unknown_version_is_refused(shop: Shop) -> None:
    with shop.asked_by(PROVIDER_ID) as service, pytest.raises(NotFound):
        service.StoreBackbone(chunks(b"x", version=2), NO_CONTEXT)


def test_a_backbone_that_holds_the_plain_embedding_is_refused(shop: Shop) -> None:
    """Even if its provider signed it: the server must never hold W."""
    weight, others = take_apart(shop.release.model)
    whole = dump_tensors({**others, "embedding.weight": weight})
    shop.release.__dict__["backbone"] = whole
    shop.registry.versions.clear()
    shop.release.register(shop.registry)

    with pytest.raises(CorruptFileError, match="plain patch embedding"):
        shop.upload()
    assert not list(shop.folder.rglob("*.safetensors"))


def test_a_backbone_that_is_not_safetensors_is_corrupt(shop: Shop) -> None:
    shop.release.__dict__["backbone"] = b"\x80\x04pickle"
    shop.registry.versions.clear()
    shop.release.register(shop.registry)

    with pytest.raises(CorruptFileError):
        shop.upload()


def test_an_upload_over_the_limit_stops_early(shop: Shop) -> None:
    sent = 0

    def endless() -> Iterator[pb.StoreBackboneRequest]:
        nonlocal sent
        yield pb.StoreBackboneRequest(model=MODEL, model_version=1)
        while True:
            sent += 1
            yield pb.StoreBackboneRequest(chunk=bytes(LIMIT // 4))

    with shop.asked_by(PROVIDER_ID) as service, pytest.raises(TooLargeError):
        service.StoreBackbone(endless(), NO_CONTEXT)
    assert sent == 5


def test_chunks_that_do_not_belong_together_are_refused(shop: Shop) -> None:
    mixed = [*chunks(b"one"), *chunks(b"two", version=2)]
    for upload in (iter([]), chunks(b"x", model=""), iter(mixed)):
        with shop.asked_by(PROVIDER_ID) as service, pytest.raises(UploadError):
            service.StoreBackbone(upload, NO_CONTEXT)


def test_no_audit_no_backbone(shop: Shop) -> None:
    shop.audit.away = True

    with pytest.raises(AuditUnavailable):
        shop.upload()

    with pytest.raises(NotFound):
        shop.catalogue.versions(MODEL)
    assert not [path for path in shop.folder.rglob("*") if path.is_file()]
    shop.audit.away = False
    shop.upload()
    assert [1] == shop.catalogue.versions(MODEL)


def test_no_audit_no_issued_model(shop: Shop) -> None:
    shop.upload()
    shop.list_as_issued()
    shop.audit.away = True

    with pytest.raises(AuditUnavailable):
        shop.deliver()

    assert not shop.serves()
    assert not list((shop.folder / "issued").iterdir())
    shop.audit.away = False
    shop.deliver()
    assert shop.serves()


def test_a_deletion_that_was_not_recorded_is_asked_for_again(stocked: Shop) -> None:
    """It is gone all the same; the second time it is recorded."""
    stocked.audit.away = True
    with pytest.raises(AuditUnavailable):
        stocked.delete()
    stocked.audit.away = False
    stocked.delete()

    assert not stocked.serves()
    assert len(stocked.audit.of_kind("issued.deleted")) == 1


def test_an_issued_model_is_taken_recorded_and_served(stocked: Shop) -> None:
    stocked.deliver()

    assert stocked.serves()
    assert stocked.audit.of_kind("issued.stored")[0]["key_id"] == "k"


def test_an_issued_model_without_its_backbone_is_not_found(shop: Shop) -> None:
    shop.list_as_issued()

    with pytest.raises(NotFound):
        shop.deliver()


def test_an_issued_model_the_registry_does_not_list_is_refused(shop: Shop) -> None:
    shop.upload()
    with pytest.raises(NotFound):
        shop.deliver()

    for state in ("gone", "retiring"):
        shop.list_as_issued(state)
        with pytest.raises(NotFound):
            shop.deliver()
    assert not shop.serves()


@pytest.mark.parametrize("change", [{"digest": bytes(32)}, {"owner": "spiffe://x"}])
def test_an_issued_model_the_registry_lists_otherwise_is_refused(
    shop: Shop, change: dict[str, Any]
) -> None:
    shop.upload()
    shop.list_as_issued(**change)

    with pytest.raises(RemoteError) as caught:
        shop.deliver()
    assert kind_of(caught) == "Signature"


def test_a_statement_signed_by_somebody_else_is_refused(stocked: Shop) -> None:
    with pytest.raises(RemoteError) as caught:
        stocked.deliver(pen=Ed25519PrivateKey.generate())
    assert kind_of(caught) == "Signature"


def test_an_embedding_the_statement_does_not_name_is_refused(shop: Shop) -> None:
    shop.upload()
    shop.list_as_issued()
    other = shop.transformed().copy()
    other[0, 0] += 1

    with pytest.raises(RemoteError) as caught:
        shop.deliver(weight=other)
    assert kind_of(caught) == "Signature"


def test_an_embedding_of_another_shape_is_corrupt(shop: Shop) -> None:
    shop.upload()
    shop.list_as_issued()

    with pytest.raises(CorruptFileError):
        shop.deliver(weight=shop.transformed()[:, :5])


@pytest.mark.parametrize("change", [{"patch_size": 2}, {"channels": 1}, {"hidden": 7}])
def test_a_statement_for_another_architecture_is_refused(
    shop: Shop, change: dict[str, Any]
) -> None:
    shop.upload()
    shop.list_as_issued()

    with pytest.raises(RemoteError) as caught:
        shop.deliver(shop.statement(**change))
    assert caught.value.kind == "KeyMismatch"


def test_a_deleted_model_is_gone_from_memory_and_disk(stocked: Shop) -> None:
    stocked.delete()
    stocked.delete()

    assert not stocked.serves()
    assert not list((stocked.folder / "issued").iterdir())
    stocked.start()
    with pytest.raises(KeyRefusedError):
        stocked.catalogue.find(MODEL, None, "k", 1)


def test_all_is_served_again_after_a_restart(stocked: Shop) -> None:
    before = stocked.catalogue.find(MODEL, 1, "k", 1)
    stocked.start()
    after = stocked.catalogue.find(MODEL, 1, "k", 1)

    assert before.issue.statement == after.issue.statement
    np.testing.assert_array_equal(before.issue.weight, after.issue.weight)


@pytest.mark.parametrize("part", ["backbones", "issued"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "no tensors"])
def test_a_damaged_file_is_not_served_and_that_is_on_record(
    stocked: Shop, part: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = (stocked.folder / part).glob("*.safetensors")
    whole = path.read_bytes()
    damaged = {
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "no tensors": dump_tensors({}),
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.ERROR):
        stocked.start()

    assert not stocked.serves()
    assert "not served" in caplog.text
    assert stocked.audit.of_kind("refused")[0]["file"] == path.stem


def test_a_damaged_statement_is_not_served(stocked: Shop) -> None:
    (path,) = (stocked.folder / "issued").glob("*.json")
    path.write_bytes(b"{")
    stocked.start()

    assert not stocked.serves()


def test_a_file_without_its_statement_is_a_leftover_and_deleted(stocked: Shop) -> None:
    """A deletion that a crash cut short ends at the next start."""
    (path,) = (stocked.folder / "issued").glob("*.json")
    path.unlink()
    stocked.start()

    assert not list((stocked.folder / "issued").iterdir())


def kept(shop: Shop) -> dict[str, Any]:
    """What lies beside the issued embedding, and says what it is."""
    (path,) = (shop.folder / "issued").glob("*.json")
    facts: dict[str, Any] = json.loads(path.read_bytes())
    return facts


def keep(shop: Shop, **changes: str) -> None:
    (path,) = (shop.folder / "issued").glob("*.json")
    path.write_bytes(canonical({**kept(shop), **changes}))


def test_a_statement_signed_anew_by_another_pen_is_not_served(stocked: Shop) -> None:
    """Who can change the files can sign with a key of his own, and say so."""
    other = Ed25519PrivateKey.generate()
    statement = kept(stocked)["statement"].encode()
    keep(stocked, signature=sign(other, ISSUE, statement).hex())
    stocked.start()

    assert not stocked.serves()
    assert [each["kind"] for each in stocked.audit.of_kind("refused")] == ["Signature"]


@pytest.mark.parametrize(
    ("signer", "kind"),
    [
        (str(PROVIDER_ID), "NotAllowed"),
        (str(SpiffeId("demo", "usurper", "key-holder")), "NotFound"),
        ("somebody", "Configuration"),
    ],
)
def test_only_a_registered_key_holders_signature_counts(
    stocked: Shop, signer: str, kind: str
) -> None:
    keep(stocked, signer=signer)
    stocked.start()

    assert not stocked.serves()
    assert [each["kind"] for each in stocked.audit.of_kind("refused")] == [kind]


def test_another_key_holder_than_the_configured_one_has_signed_in_vain(
    stocked: Shop,
) -> None:
    usurper = SpiffeId("demo", "usurper", "key-holder")
    stocked.registry.enrol(usurper, PEN)
    keep(stocked, signer=str(usurper))
    stocked.key_holder = KEY_HOLDER_ID
    stocked.start()

    assert not stocked.serves()


def test_what_a_revoked_key_holder_signed_is_not_served_again(stocked: Shop) -> None:
    stocked.registry.parties[str(KEY_HOLDER_ID)].state = "revoked"
    stocked.start()

    assert not stocked.serves()


def test_an_embedding_exchanged_with_its_statement_is_not_served(
    stocked: Shop,
) -> None:
    """Both were signed, of another key version: the registry lists another digest."""
    other = transform_embedding(
        stocked.release.weight,
        derive_key(b"o" * 32, key_id="k", version=1, patch_size=4, channels=3),
    )
    said = stocked.statement(digest=embedding_digest(other).hex()).to_bytes()
    (path,) = (stocked.folder / "issued").glob("*.safetensors")
    path.write_bytes(dump_tensors({"weight": other}))
    signature = sign(PEN, ISSUE, said).hex()
    keep(stocked, statement=said.decode(), signature=signature)
    stocked.start()

    assert not stocked.serves()
    assert [each["kind"] for each in stocked.audit.of_kind("refused")] == ["Signature"]


def test_a_backbone_exchanged_with_its_manifest_is_not_served(stocked: Shop) -> None:
    other = Release(seed=3)
    ModelStore(stocked.folder).save_backbone(
        ModelName(MODEL, 1), other.manifest, other.backbone
    )
    stocked.start()

    with pytest.raises(NotFound):
        stocked.catalogue.versions(MODEL)
    assert [each["kind"] for each in stocked.audit.of_kind("refused")] == ["Signature"]


@pytest.mark.parametrize("state", ["pending", "live", "retiring"])
def test_what_is_listed_is_served_again(stocked: Shop, state: str) -> None:
    stocked.list_as_issued(state)
    stocked.start()

    assert stocked.serves()


def test_what_was_deleted_meanwhile_is_deleted_here_too(stocked: Shop) -> None:
    """Such as one that arrived late, or came back with a backup of the disk."""
    stocked.list_as_issued("gone")
    stocked.start()

    assert not stocked.serves()
    assert not list((stocked.folder / "issued").iterdir())
    (deleted,) = stocked.audit.of_kind("issued.deleted")
    assert (deleted["key_id"], deleted["why"]) == ("k", "not listed")


def test_what_the_registry_never_listed_is_deleted(stocked: Shop) -> None:
    stocked.registry.issued.clear()
    stocked.start()

    assert not stocked.serves()
    assert not list((stocked.folder / "issued").iterdir())


class ForgetfulRegistry(FakeRegistry):
    """A registry that leaves out of the whole list what it knows when it is asked."""

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[registry_pb2.IssuedModel]:
        return super().issued_models(key_id, key_version) if key_id else []


def test_nothing_is_deleted_that_the_registry_knows_after_all(stocked: Shop) -> None:
    known = stocked.registry
    stocked.registry = ForgetfulRegistry(known.parties, known.versions, known.issued)
    with pytest.raises(PeerUnavailable):
        stocked.start()

    stocked.registry = known
    stocked.start()
    assert stocked.serves()


class AwayRegistry(FakeRegistry):
    """A registry that does not answer for what is issued."""

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[registry_pb2.IssuedModel]:
        raise PeerUnavailable("away")


def test_without_the_registrys_word_nothing_is_served_and_nothing_is_lost(
    stocked: Shop,
) -> None:
    known = stocked.registry
    stocked.registry = AwayRegistry(known.parties, known.versions, known.issued)
    with pytest.raises(PeerUnavailable):
        stocked.start()
    assert not stocked.serves()

    stocked.registry = known
    stocked.start()
    assert stocked.serves()


class SlowRegistry(FakeRegistry):
    """A registry whose list of what is issued arrives when a test lets it."""

    def __init__(self, known: FakeRegistry) -> None:
        super().__init__(known.parties, known.versions, known.issued)
        self.asked, self.answers = Event(), Event()

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[registry_pb2.IssuedModel]:
        found = super().issued_models(key_id, key_version)
        self.asked.set()
        assert self.answers.wait(20)
        return found


def deleted_meanwhile(shop: Shop, work: Callable[[Intake], object]) -> Intake:
    """Delete the issued model while `work` waits for the registry's list."""
    slow = SlowRegistry(shop.registry)
    shop.registry = slow
    intake = shop.intake()
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(work, intake)
        assert slow.asked.wait(20)
        deleting = pool.submit(intake.drop_issue, NAME)
        # Long enough for a deletion that does not wait; the verdict needs no clock.
        deleting_ended = wait([deleting], timeout=0.2).done
        slow.answers.set()
        working.result(20)
        deleting.result(20)

    assert not deleting_ended
    return intake


def test_a_deletion_waits_for_a_delivery_and_takes_it_along(stocked: Shop) -> None:
    """Without the lock the delivery would come back after its deletion."""
    statement = stocked.statement().to_bytes()
    request = pb.StoreIssuedModelRequest(
        statement=statement,
        signature=sign(PEN, ISSUE, statement),
        embedding=dump_tensors({"weight": stocked.transformed()}),
    )
    deleted_meanwhile(
        stocked,
        lambda intake: intake.take_issue(str(KEY_HOLDER_ID), request, lambda _: None),
    )

    assert not stocked.serves()
    assert not list((stocked.folder / "issued").iterdir())


def test_a_deletion_waits_until_stock_is_taken_and_ends_what_it_found(
    stocked: Shop,
) -> None:
    stocked.catalogue = Catalogue(TorchEngine(threads=1))
    with Reporter(stocked.audit) as reporter:
        deleted_meanwhile(stocked, lambda intake: Stock(intake, reporter).take())

    assert not stocked.serves()
    assert not list((stocked.folder / "issued").iterdir())


def test_a_provider_revoked_during_its_upload_leaves_nothing(shop: Shop) -> None:
    def revoked_meanwhile() -> Iterator[pb.StoreBackboneRequest]:
        yield from chunks(shop.release.backbone)
        shop.registry.parties[str(PROVIDER_ID)].state = "revoked"

    with shop.asked_by(PROVIDER_ID) as service, pytest.raises(RemoteError) as caught:
        service.StoreBackbone(revoked_meanwhile(), NO_CONTEXT)

    assert caught.value.kind == "NotAllowed"
    assert shop.audit.of_kind("backbone.stored") == []
    assert not [path for path in shop.folder.rglob("*") if path.is_file()]


def test_what_is_done_under_a_key_is_recorded_under_a_name(stocked: Shop) -> None:
    """The same one each time: by it the log knows what it has recorded already."""
    for _ in range(2):
        stocked.upload()
        stocked.deliver(idempotency_key="7/send/key-holder")
        stocked.delete("9/remove/inference-server")

    named = [
        (event.kind, event.event_id) for event in stocked.audit.events if event.event_id
    ]
    expected = [
        ("backbone.stored", "cells/1/backbone.stored"),
        ("issued.stored", "7/send/key-holder/issued.stored"),
        ("issued.deleted", "9/remove/inference-server/issued.deleted"),
    ]
    assert named == [expected[0], *expected, *expected]


def test_without_a_version_the_newest_issued_one_answers(stocked: Shop) -> None:
    """A newer backbone that is not issued for the key yet does not count."""
    stocked.release.register(stocked.registry, version=2)
    with stocked.asked_by(PROVIDER_ID) as service:
        service.StoreBackbone(chunks(stocked.release.backbone, version=2), NO_CONTEXT)

    assert NAME == stocked.catalogue.find(MODEL, None, "k", 1).name
    with pytest.raises(KeyRefusedError):
        stocked.catalogue.find(MODEL, 2, "k", 1)


def test_what_is_not_served_is_named(stocked: Shop) -> None:
    with pytest.raises(NotFound):
        stocked.catalogue.find("unknown", None, "k", 1)
    with pytest.raises(NotFound):
        stocked.catalogue.find(MODEL, 9, "k", 1)
    with pytest.raises(KeyRefusedError):
        stocked.catalogue.find(MODEL, None, "k", 2)


def test_no_weight_is_in_a_repr(stocked: Shop) -> None:
    served = stocked.catalogue.find(MODEL, None, "k", 1)

    assert "array" not in repr(served)

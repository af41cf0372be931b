"""An owner takes a key only from the envelope that was meant for it, now and unchanged.

The key holder's answers are made here by hand, sealed and signed for real, and then
tampered with on their way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import KeymixerError, SignatureError
from core.keys import possession_tag
from core.orthogonal import GENERATOR
from core.sealing import (
    HYBRID,
    RECOVERY,
    X25519,
    ExpiredError,
    SealContext,
    SealingKey,
    fingerprint,
    seal,
    signed_part,
)
from core.statements import ENVELOPE, EXPORT, sign
from parties.data_owner.delivery import Delivery
from parties.data_owner.keyring import Keyring
from protos import key_holder_pb2 as pb
from protos.key_holder_pb2_grpc import KeyHolderServiceStub
from protos.registry_pb2 import KeyVersion
from tests.unit.parties.stage import KEY_HOLDER_ID, OTHER_OWNER_ID, OWNER_ID, public

SEED = bytes(range(32))
PEN = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
# Far enough: the owner goes by its own clock.
LATER_MS = 4_000_000_000_000

Tampering = Callable[[pb.FetchSealedKeyResponse], pb.FetchSealedKeyResponse]


@dataclass
class Holder:
    """A key holder that seals what a test says, and then lets it be tampered with."""

    owner_key: SealingKey = field(default_factory=SealingKey.generate)
    pen: Ed25519PrivateKey = PEN
    label: str = ENVELOPE
    changes: dict[str, Any] = field(default_factory=dict)
    sealed_to: SealingKey | None = None
    tamper: Tampering = lambda answer: answer
    answers: list[pb.FetchSealedKeyResponse] = field(default_factory=list)
    # Answered instead of a new envelope.
    replayed: pb.FetchSealedKeyResponse | None = None

    def context(self, key_id: str, version: int) -> SealContext:
        recipient = (self.sealed_to or self.owner_key).public_bytes()
        meant = SealContext(
            federation=OWNER_ID.federation,
            key_holder=str(KEY_HOLDER_ID),
            owner=str(OWNER_ID),
            key_id=key_id,
            version=version,
            generator=GENERATOR,
            recipient_fingerprint=fingerprint(recipient),
            expires_at_ms=LATER_MS,
        )
        return replace(meant, **self.changes)

    def FetchSealedKey(
        self, request: pb.FetchSealedKeyRequest
    ) -> pb.FetchSealedKeyResponse:
        if self.replayed is not None:
            return self.replayed
        context = self.context(request.key_id, request.version)
        recipient = (self.sealed_to or self.owner_key).public_bytes()
        envelope = seal(SEED, recipient, context)
        part = signed_part(envelope, context)
        answer = pb.FetchSealedKeyResponse(
            envelope=envelope,
            signature=sign(self.pen, self.label, part),
            expires_at_ms=context.expires_at_ms,
        )
        self.answers.append(answer)
        return self.tamper(answer)


@dataclass
class Owner:
    """An owner with a keyring of its own."""

    folder: Path
    holder: Holder

    def fetch(self, version: int = 1, key_id: str = "k") -> None:
        self.delivery().fetch(announced(version, key_id), public(PEN))

    def delivery(self) -> Delivery:
        stub = cast("KeyHolderServiceStub", self.holder)
        keyring, key = Keyring(self.folder), self.holder.owner_key
        return Delivery(OWNER_ID, KEY_HOLDER_ID, keyring, key, stub)

    def holds(self, version: int = 1, key_id: str = "k") -> bool:
        return (key_id, version) in Keyring(self.folder)


def announced(version: int = 1, key_id: str = "k") -> KeyVersion:
    return KeyVersion(
        key_id=key_id,
        version=version,
        owner=str(OWNER_ID),
        model="cells",
        generator=GENERATOR,
        patch_size=2,
        channels=3,
    )


@pytest.fixture(params=[HYBRID, X25519], ids=["hybrid", "x25519"])
def owner(tmp_path: Path, request: pytest.FixtureRequest) -> Owner:
    return Owner(tmp_path, Holder(SealingKey.generate(request.param)))


def refused(owner: Owner, error: type[KeymixerError] = SignatureError) -> None:
    """The owner refuses what it is sent, and keeps nothing of it."""
    with pytest.raises(error):
        owner.fetch()
    assert not owner.holds()


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_envelope_that_was_meant_is_taken(owner: Owner) -> None:
    owner.fetch()

    expected = possession_tag(SEED, key_id="k", version=1, owner=str(OWNER_ID))
    assert expected == Keyring(owner.folder).possession_tag("k", 1, str(OWNER_ID))


@pytest.mark.parametrize("version", [2, 7])
def test_an_envelope_replayed_for_another_version_is_refused(
    owner: Owner, version: int
) -> None:
    """It was good once: sealed to this owner, signed, and not expired."""
    owner.fetch()
    owner.holder.replayed = owner.holder.answers[0]

    with pytest.raises(SignatureError):
        owner.fetch(version)
    assert not owner.holds(version)


def test_an_envelope_replayed_for_another_key_is_refused(owner: Owner) -> None:
    owner.fetch()
    owner.holder.replayed = owner.holder.answers[0]

    with pytest.raises(SignatureError):
        owner.fetch(1, "another")
    assert not owner.holds(1, "another")


def test_an_envelope_replayed_with_a_new_end_is_refused(owner: Owner) -> None:
    owner.holder.changes = {"expires_at_ms": 1_000}
    refused(owner, ExpiredError)
    old = owner.holder.answers[0]
    owner.holder.replayed = pb.FetchSealedKeyResponse(
        envelope=old.envelope, signature=old.signature, expires_at_ms=LATER_MS
    )

    refused(owner)


@pytest.mark.parametrize(
    "change",
    [
        {"owner": str(OTHER_OWNER_ID)},
        {"federation": "other"},
        {"key_holder": "spiffe://demo/other/key-holder"},
        {"key_id": "another"},
        {"version": 2},
        {"generator": "keymixer-haar-v9"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_envelope_that_was_addressed_otherwise_is_refused(
    owner: Owner, change: dict[str, Any]
) -> None:
    """Although the key holder signed it, and it is sealed to this owner's key."""
    owner.holder.changes = change

    refused(owner)


def test_an_envelope_for_another_owners_key_is_refused(owner: Owner) -> None:
    owner.holder.sealed_to = SealingKey.generate(owner.holder.owner_key.kem_id)

    refused(owner)


def test_an_envelope_sealed_to_others_but_said_to_be_for_us_is_refused(
    owner: Owner,
) -> None:
    """The context names our key, so the signature is right; it just does not open."""
    other = SealingKey.generate(owner.holder.owner_key.kem_id)
    theirs = replace(
        owner.holder.context("k", 1),
        recipient_fingerprint=fingerprint(other.public_bytes()),
    )
    envelope = seal(SEED, other.public_bytes(), theirs)
    ours = owner.holder.context("k", 1)
    owner.holder.replayed = pb.FetchSealedKeyResponse(
        envelope=envelope,
        signature=sign(PEN, ENVELOPE, signed_part(envelope, ours)),
        expires_at_ms=LATER_MS,
    )

    refused(owner)


def test_an_export_is_no_delivery(owner: Owner) -> None:
    owner.holder.changes = {"purpose": RECOVERY}
    refused(owner)
    owner.holder.label = EXPORT
    refused(owner)


@pytest.mark.parametrize("expires_at_ms", [0, 1, 1_000_000_000_000])
def test_an_expired_envelope_is_refused(owner: Owner, expires_at_ms: int) -> None:
    owner.holder.changes = {"expires_at_ms": expires_at_ms}

    refused(owner, ExpiredError)


@pytest.mark.parametrize("part", ["envelope", "signature"])
def test_no_bit_of_a_delivery_can_be_changed(owner: Owner, part: str) -> None:
    """Every byte of it, one bit in each."""
    owner.fetch()
    good = owner.holder.answers[0]
    (owner.folder / "keys" / "k" / "1.key").unlink()

    for position in range(len(getattr(good, part))):
        changed = pb.FetchSealedKeyResponse()
        changed.CopyFrom(good)
        bit = 8 * position + position % 8
        setattr(changed, part, flipped(getattr(good, part), bit))
        owner.holder.replayed = changed
        refused(owner)


@pytest.mark.parametrize("bit", range(0, 42, 3))
def test_no_bit_of_the_end_can_be_changed(owner: Owner, bit: int) -> None:
    def tamper(answer: pb.FetchSealedKeyResponse) -> pb.FetchSealedKeyResponse:
        answer.expires_at_ms ^= 1 << bit
        return answer

    owner.holder.tamper = tamper

    refused(owner)


@pytest.mark.parametrize("part", ["envelope", "signature"])
@pytest.mark.parametrize("cut", [slice(0), slice(-1), slice(1, None)])
def test_a_delivery_cut_short_is_refused(owner: Owner, part: str, cut: slice) -> None:
    def tamper(answer: pb.FetchSealedKeyResponse) -> pb.FetchSealedKeyResponse:
        setattr(answer, part, getattr(answer, part)[cut])
        return answer

    owner.holder.tamper = tamper

    refused(owner)


def test_an_envelope_that_another_signed_is_refused(owner: Owner) -> None:
    owner.holder.pen = Ed25519PrivateKey.generate()

    refused(owner)


def test_a_signature_over_another_envelope_is_refused(owner: Owner) -> None:
    """Two envelopes of the same key in the same context: each has its own."""
    owner.fetch()
    first = owner.holder.answers[0]
    (owner.folder / "keys" / "k" / "1.key").unlink()

    def tamper(answer: pb.FetchSealedKeyResponse) -> pb.FetchSealedKeyResponse:
        answer.signature = first.signature
        return answer

    owner.holder.tamper = tamper
    refused(owner)

"""How a key reaches its owner: fetched sealed, checked, kept, and proved."""

from dataclasses import dataclass, field

from core.errors import SignatureError
from core.orthogonal import GENERATOR
from core.rpc.errors import remote_errors
from core.rpc.identity import SpiffeId
from core.sealing import SealContext, SealingKey, fingerprint, open_sealed, signed_part
from core.statements import ENVELOPE, verify
from parties.data_owner.keyring import KeyFacts, Keyring
from parties.data_owner.pinning import require_pinned
from protos import key_holder_pb2 as pb
from protos.key_holder_pb2_grpc import KeyHolderServiceStub
from protos.registry_pb2 import KeyVersion


@dataclass(frozen=True, slots=True)
class Delivery:
    """The owner's end of key delivery."""

    owner: SpiffeId
    key_holder: SpiffeId
    keyring: Keyring
    sealing_key: SealingKey = field(repr=False)
    stub: KeyHolderServiceStub

    def fetch(self, announced: KeyVersion, signing_key: bytes) -> None:
        """Fetch, verify, open and keep one key version.

        Nothing in the envelope is believed: the context it must have been sealed in is
        rebuilt from what this owner expects, and the signature must be by the key
        holder's registered `signing_key`, which is pinned at the first delivery.

        Raises:
            SignatureError: it was made by another, for another, or with a generator
                that this version of keymixer does not know.
            DeliveryKeyChangedError: the key holder's key is not the pinned one.
        """
        require_pinned(self.keyring.home, signing_key)
        if announced.generator != GENERATOR:
            raise SignatureError(f"unknown generator {announced.generator!r:.80}")
        request = pb.FetchSealedKeyRequest(
            key_id=announced.key_id,
            version=announced.version,
            sealing_key=self.sealing_key.public_bytes(),
        )
        with remote_errors("key holder"):
            sealed = self.stub.FetchSealedKey(request)
        context = self._expected(announced, sealed.expires_at_ms)
        part = signed_part(sealed.envelope, context)
        verify(signing_key, ENVELOPE, part, sealed.signature)
        seed = open_sealed(sealed.envelope, self.sealing_key, context)
        self.keyring.add(_facts(announced), seed)

    def prove(self, key_id: str, version: int) -> None:
        """Prove to the key holder that this owner holds the key."""
        tag = self.keyring.possession_tag(key_id, version, str(self.owner))
        request = pb.ProvePossessionRequest(key_id=key_id, version=version, tag=tag)
        with remote_errors("key holder"):
            self.stub.ProvePossession(request)

    def _expected(self, announced: KeyVersion, expires_at_ms: int) -> SealContext:
        return SealContext(
            federation=self.owner.federation,
            key_holder=str(self.key_holder),
            owner=str(self.owner),
            key_id=announced.key_id,
            version=announced.version,
            generator=GENERATOR,
            recipient_fingerprint=fingerprint(self.sealing_key.public_bytes()),
            expires_at_ms=expires_at_ms,
        )


def _facts(announced: KeyVersion) -> KeyFacts:
    return KeyFacts(
        key_id=announced.key_id,
        version=announced.version,
        model=announced.model,
        generator=announced.generator,
        patch_size=announced.patch_size,
        channels=announced.channels,
    )

"""A key's way to its owner: sealed on the way out, proved on the way back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import NotAllowedError, SignatureError
from core.keys import verify_possession
from core.rpc.identity import SpiffeId
from core.sealing import SealContext, fingerprint, seal, signed_part
from core.statements import ENVELOPE, sign
from parties.key_holder.vault import KeyIdentity, Vault
from parties.registry import Registry, active_party


@dataclass(frozen=True, slots=True)
class SealedKey:
    """An HPKE envelope, the key holder's signature over it, and when it ends."""

    envelope: bytes
    signature: bytes
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Gives owners their own keys, and nobody else's."""

    vault: Vault
    registry: Registry
    signing_key: Ed25519PrivateKey = field(repr=False)
    key_holder: SpiffeId
    lifetime_s: float
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def seal_for(
        self, caller: str, key_id: str, version: int, sealing_key: bytes
    ) -> SealedKey:
        """Seal the caller's own key version to the sealing key it holds.

        The caller says which, over mutual TLS, and the registry must say the same: so
        neither a lying registry nor a stolen certificate alone is given the key.
        """
        identity = self._own(caller, key_id, version)
        public_key = active_party(self.registry, caller).sealing_key
        if not public_key or public_key != sealing_key:
            raise SignatureError("the registry names another sealing key, or none")
        context = self._context(identity, public_key)
        with self.vault.open_seed(key_id, version) as seed:
            envelope = seal(bytes(seed), public_key, context)
        signed = sign(self.signing_key, ENVELOPE, signed_part(envelope, context))
        return SealedKey(envelope, signed, context.expires_at_ms)

    def accept_proof(self, caller: str, key_id: str, version: int, tag: bytes) -> None:
        """Check that the owner opened the envelope, and tell the registry."""
        self._own(caller, key_id, version)
        with self.vault.open_seed(key_id, version) as seed:
            verify_possession(tag, seed, key_id=key_id, version=version, owner=caller)
        self.registry.confirm_key_version(key_id, version)

    def _own(self, caller: str, key_id: str, version: int) -> KeyIdentity:
        identity = self.vault.identity(key_id, version)
        if identity.owner != caller:
            raise NotAllowedError("this key belongs to another owner")
        return identity

    def _context(self, identity: KeyIdentity, public_key: bytes) -> SealContext:
        return SealContext(
            federation=self.key_holder.federation,
            key_holder=str(self.key_holder),
            owner=identity.owner,
            key_id=identity.key_id,
            version=identity.version,
            generator=identity.generator,
            recipient_fingerprint=fingerprint(public_key),
            expires_at_ms=self.now_ms() + int(self.lifetime_s * 1000),
        )

"""A key's way to its owner: sealed on the way out, proved on the way back.

And the one other way out: sealed to the recovery key that is pinned in the settings.
"""

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import KeyRefusedError, NotAllowedError, SignatureError
from core.keys import verify_possession
from core.rpc.identity import SpiffeId
from core.sealing import (
    DELIVERY,
    RECOVERY,
    SealContext,
    fingerprint,
    seal,
    signed_part,
)
from core.statements import ENVELOPE, EXPORT, sign
from parties.key_holder.errors import NoRecoveryKeyError
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.vault import Clock, Vault, now_ms
from parties.registry import Registry, active_party

# An export is kept for as long as it may be needed: the end of the year 9999.
NEVER_MS: Final = 253_402_300_799_000
# States in which an owner may be given its key: what is revoked or leaked is not.
HELD: Final = frozenset({"pre_active", "active", "retiring", "suspended"})
_LABELS: Final = {DELIVERY: ENVELOPE, RECOVERY: EXPORT}


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
    now_ms: Clock = now_ms
    # As `core.sealing` writes it; empty: nothing may be exported.
    recovery_key: bytes = b""

    def seal_for(
        self, caller: str, key_id: str, version: int, sealing_key: bytes
    ) -> SealedKey:
        """Seal the caller's own key version to the sealing key it holds.

        The caller says which, over mutual TLS, and the registry must say the same: so
        neither a lying registry nor a stolen certificate alone is given the key.

        Raises:
            KeyRefusedError: the registry says that it was revoked or leaked.
            Unavailable: the registry does not say how it stands.
        """
        identity = self._own(caller, key_id, version)
        self._require_held(key_id, version)
        public_key = active_party(self.registry, caller).sealing_key
        if not public_key or public_key != sealing_key:
            raise SignatureError("the registry names another sealing key, or none")
        return self._sealed(identity, public_key, DELIVERY)

    def export(self, key_id: str, version: int) -> SealedKey:
        """Seal a key version to the pinned recovery key, whoever asks.

        It is sealed in a context of its own and signed under a label of its own, so
        that an export never passes for a delivery, nor a delivery for an export.

        Raises:
            NoRecoveryKeyError: the settings pin no recovery key.
        """
        if not self.recovery_key:
            raise NoRecoveryKeyError("settings.json pins no recovery_key")
        identity = self.vault.identity(key_id, version)
        return self._sealed(identity, self.recovery_key, RECOVERY)

    def accept_proof(self, caller: str, key_id: str, version: int, tag: bytes) -> None:
        """Check that the owner opened the envelope, and tell the registry.

        Proving again what is proved is fine. Raises as `seal_for` does.
        """
        self._own(caller, key_id, version)
        self._require_held(key_id, version)
        with self.vault.open_seed(key_id, version) as seed:
            verify_possession(tag, seed, key_id=key_id, version=version, owner=caller)
        self.registry.confirm_key_version(key_id, version)

    def _own(self, caller: str, key_id: str, version: int) -> KeyIdentity:
        identity = self.vault.identity(key_id, version)
        if identity.owner != caller:
            raise NotAllowedError("this key belongs to another owner")
        return identity

    def _require_held(self, key_id: str, version: int) -> None:
        """Return if an owner may hold this key now, as the registry has it."""
        state = self.registry.key_version(key_id, version).state
        if state not in HELD:
            raise KeyRefusedError(f"{key_id} version {version} is {state}")

    def _sealed(
        self, identity: KeyIdentity, public_key: bytes, purpose: str
    ) -> SealedKey:
        context = self._context(identity, public_key, purpose)
        with self.vault.open_seed(identity.key_id, identity.version) as seed:
            envelope = seal(seed, public_key, context)
        part = signed_part(envelope, context)
        signature = sign(self.signing_key, _LABELS[purpose], part)
        return SealedKey(envelope, signature, context.expires_at_ms)

    def _context(
        self, identity: KeyIdentity, public_key: bytes, purpose: str
    ) -> SealContext:
        ends_at_ms = self.now_ms() + int(self.lifetime_s * 1000)
        return SealContext(
            federation=self.key_holder.federation,
            key_holder=str(self.key_holder),
            owner=identity.owner,
            key_id=identity.key_id,
            version=identity.version,
            generator=identity.generator,
            recipient_fingerprint=fingerprint(public_key),
            expires_at_ms=NEVER_MS if purpose == RECOVERY else ends_at_ms,
            purpose=purpose,
        )

"""A witness's word on a checkpoint: C2SP tlog-cosignature, version 1.

A cosignature is one more signature line of a checkpoint's note. It says that, at some
time, this was the largest tree of the log that the witness had seen, and that it
extends all that the witness saw before. Signed are two lines and then the note's text:

    cosignature/v1
    time 1679315147
    federation.example/keymixer-audit
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

The line holds the time, 8 bytes big-endian, and an Ed25519 signature of 64 bytes. The
two lines keep a signature made for anything else from counting as one, so that a party
may sign both with one key.

See https://c2sp.org/tlog-cosignature.
"""

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import CorruptFileError, SignatureError
from core.notes import (
    add_signature,
    find_signature,
    open_note,
    verifier_key,
    verify_ed25519,
)

_TIME_BYTES: Final = 8
_LATEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CosignatureV1:
    """Type 0x04: Ed25519 over a time and the text.

    `at_s`, seconds since the epoch, is what `sign` writes; `verify` reads it.
    """

    at_s: int = 0
    number: int = field(default=0x04, init=False)

    def sign(self, private_key: Ed25519PrivateKey, text: bytes) -> bytes:
        """Return 72 bytes, or raise `CorruptFileError` for a time that does not fit."""
        if not 0 <= self.at_s <= _LATEST:
            raise CorruptFileError("a cosignature's time is below 2^63 seconds")
        signature = private_key.sign(_signed(self.at_s, text))
        return self.at_s.to_bytes(_TIME_BYTES, "big") + signature

    def verify(self, public_key: bytes, text: bytes, signature: bytes) -> None:
        """Return if `signature` is over its time and the text."""
        verify_ed25519(
            public_key, _signed(_time(signature), text), signature[_TIME_BYTES:]
        )


def cosign(note: bytes, private_key: Ed25519PrivateKey, name: str, at_s: int) -> bytes:
    """Return a checkpoint with our cosignature; verify it before.

    Args:
        note: The checkpoint, byte for byte.
        private_key: The witness's.
        name: The witness's, without spaces or plus signs.
        at_s: Now, in seconds since the epoch.
    """
    return add_signature(note, private_key, name, CosignatureV1(at_s))


def open_cosigned(note: bytes, public_key: bytes, name: str) -> int:
    """Return when the witness `name` cosigned a checkpoint, in seconds since the epoch.

    Raises:
        SignatureError: if it did not, or its cosignature does not verify.
        CorruptFileError: if `note` is no signed note.
    """
    kind = CosignatureV1()
    open_note(note, public_key, name, kind)
    return _time(find_signature(note, public_key, name, kind)[1])


def witness_name(spiffe_id: str) -> str:
    """The name a party cosigns under: its SPIFFE ID, without the scheme."""
    return spiffe_id.removeprefix("spiffe://")


def witness_key(name: str, public_key: bytes) -> str:
    """Write a witness's key as other tools read it: `name+key id+base64 key`."""
    return verifier_key(name, public_key, CosignatureV1())


def _signed(at_s: int, text: bytes) -> bytes:
    return b"cosignature/v1\ntime %d\n" % at_s + text


def _time(signature: bytes) -> int:
    at_s = int.from_bytes(signature[:_TIME_BYTES], "big")
    if len(signature) <= _TIME_BYTES or at_s > _LATEST:
        raise SignatureError("a cosignature is a time and an Ed25519 signature")
    return at_s

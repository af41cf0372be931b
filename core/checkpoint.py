"""The log's signed word on its size and root: C2SP tlog-checkpoint.

A checkpoint is a signed note (`core.notes`) whose text is the log's origin, the tree's
size and its root, one a line:

    federation.example/keymixer-audit
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — federation.example/keymixer-audit Az3grlgtzPICa5OS8npVmf1Myq/5IZ...

See https://c2sp.org/tlog-checkpoint.
"""

import re
from base64 import b64encode
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import CorruptFileError, SignatureError
from core.merkle import HASH_BYTES
from core.notes import decode_base64, open_note, sign_note

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree of `size` leaves had this `root` (32 bytes), says the log `origin`."""

    origin: str
    size: int
    root: bytes


def sign_checkpoint(
    private_key: Ed25519PrivateKey, origin: str, size: int, root: bytes
) -> bytes:
    """Sign a tree's size and root as the log named `origin`."""
    if size < 0 or len(root) != HASH_BYTES:
        raise CorruptFileError(f"expected a size and a root of {HASH_BYTES} bytes")
    text = f"{origin}\n{size}\n{b64encode(root).decode()}\n"
    return sign_note(private_key, origin, text)


def open_checkpoint(data: bytes, public_key: bytes, origin: str) -> Checkpoint:
    """Verify a checkpoint of the log named `origin` and read it.

    Raises:
        SignatureError: if it is not signed by `public_key`, or is another log's.
        CorruptFileError: if it is signed and yet not a checkpoint.
    """
    first, size, root = _checkpoint_lines(open_note(data, public_key, origin))
    if first != origin:
        raise SignatureError("the checkpoint is of another log")
    return Checkpoint(first, size, root)


def stated_origin(data: bytes) -> str:
    """Return the log's name as a checkpoint gives it, to be verified with the rest."""
    return data.partition(b"\n")[0].decode(errors="replace")


def _checkpoint_lines(text: str) -> tuple[str, int, bytes]:
    """Read origin, size and root; later lines are extensions and passed over."""
    lines = text.split("\n")[:-1]
    if len(lines) < len(("origin", "size", "root")) or not all(lines):
        raise CorruptFileError("expected a checkpoint of at least three lines")
    origin, size, root = lines[0], lines[1], decode_base64(lines[2])
    if not _SIZE.fullmatch(size) or len(root) != HASH_BYTES:
        raise CorruptFileError("expected a decimal size and a base64 root of 32 bytes")
    return origin, int(size), root

"""The log's signed word on its size and root: C2SP signed-note and tlog-checkpoint.

A signed note is text, a blank line, and signature lines. A checkpoint is a note whose
text is the log's origin, the tree's size and its root, one a line:

    federation.example/keymixer-audit
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — federation.example/keymixer-audit Az3grlgtzPICa5OS8npVmf1Myq/5IZ...

See https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint.
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from core.errors import CorruptFileError, SignatureError
from core.merkle import HASH_BYTES

_ED25519: Final = b"\x01"  # the algorithm's number in signed-note
_ID_BYTES: Final = 4
_MARK: Final = "\N{EM DASH} "
_MAX_NOTE_BYTES: Final = 1_000_000
_NAME = re.compile(r"[^\s+]+")
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


def sign_note(private_key: Ed25519PrivateKey, name: str, text: str) -> bytes:
    """Sign a text, which ends with a newline, as `name`."""
    _check_name(name)
    if not _is_note_text(text):
        raise CorruptFileError("a note is printable text and ends with a newline")
    public_key = private_key.public_key().public_bytes_raw()
    signature = _key_id(name, public_key) + private_key.sign(text.encode())
    line = f"{_MARK}{name} {b64encode(signature).decode()}\n"
    return f"{text}\n{line}".encode()


def open_note(data: bytes, public_key: bytes, name: str) -> str:
    """Verify a signed note and return its text.

    Signatures by others are passed over, as the format asks, so that witnesses may add
    theirs. One that carries our signer's name and key id must verify.

    Args:
        data: The note.
        public_key: Ed25519, 32 raw bytes.
        name: The signer's name.

    Raises:
        SignatureError: if there is no signature by this key, or it does not verify.
        CorruptFileError: if `data` is not a signed note.
    """
    _check_name(name)
    text, lines = _split_note(data)
    key_id = _key_id(name, public_key)
    ours = [s for n, i, s in map(_read_signature, lines) if (n, i) == (name, key_id)]
    if len(ours) != 1:
        raise SignatureError(f"expected 1 signature by {name}, got {len(ours)}")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(ours[0], text.encode())
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"the signature by {name} does not verify") from error
    return text


def verifier_key(name: str, public_key: bytes) -> str:
    """Write a public key as signed-note tools do: `name+key id+base64 key`."""
    _check_name(name)
    key_id = _key_id(name, public_key).hex()
    return f"{name}+{key_id}+{b64encode(_ED25519 + public_key).decode()}"


def _key_id(name: str, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:_ID_BYTES]


def _checkpoint_lines(text: str) -> tuple[str, int, bytes]:
    """Read origin, size and root; later lines are extensions and passed over."""
    lines = text.split("\n")[:-1]
    if len(lines) < len(("origin", "size", "root")) or not all(lines):
        raise CorruptFileError("expected a checkpoint of at least three lines")
    origin, size, root = lines[0], lines[1], _decode(lines[2])
    if not _SIZE.fullmatch(size) or len(root) != HASH_BYTES:
        raise CorruptFileError("expected a decimal size and a base64 root of 32 bytes")
    return origin, int(size), root


def _split_note(data: bytes) -> tuple[str, list[str]]:
    """Split a note at its last blank line into text and signature lines."""
    if len(data) > _MAX_NOTE_BYTES:
        raise CorruptFileError("the note is too long")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError("a note is UTF-8") from error
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not _is_note_text(note) or not signatures:
        raise CorruptFileError("expected text, a blank line, and signature lines")
    return text + "\n", signatures.split("\n")[:-1]


def _is_note_text(text: str) -> bool:
    control = (c for c in text if (c < " " and c != "\n") or c == "\x7f")
    return text.endswith("\n") and not any(control)


def _read_signature(line: str) -> tuple[str, bytes, bytes]:
    """Split a signature line into the signer's name, its key id and the signature."""
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    value = _decode(encoded)
    if not line.startswith(_MARK) or not space or len(value) <= _ID_BYTES:
        raise CorruptFileError("a signature line of the note is malformed")
    _check_name(name)
    return name, value[:_ID_BYTES], value[_ID_BYTES:]


def _decode(encoded: str) -> bytes:
    """Read base64 that is written the one right way."""
    try:
        value = b64decode(encoded, validate=True)
    except ValueError as error:
        raise CorruptFileError("expected base64") from error
    if b64encode(value).decode() != encoded:
        raise CorruptFileError("expected base64 in its one canonical form")
    return value


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CorruptFileError("a signer's name has no spaces and no plus sign")

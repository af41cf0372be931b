"""Signed notes, as C2SP writes them: text, a blank line, and signature lines.

    — federation.example/keymixer-audit Az3grlgtzPICa5OS8npVmf1Myq/5IZ...

A signature line names its signer and a key id. The id follows from name, signature type
and public key, so a reader knows its own signers' lines and passes over all others.

See https://c2sp.org/signed-note.
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from core.errors import CorruptFileError, SignatureError

_ID_BYTES: Final = 4
_MARK: Final = "\N{EM DASH} "
_MAX_NOTE_BYTES: Final = 1_000_000
_NAME = re.compile(r"[^\s+]+")


class SignatureType(Protocol):
    """One way to sign a note: Ed25519 here, and `core.cosignature`."""

    @property
    def number(self) -> int:
        """The type's number in signed-note, which the key id is made with."""
        ...

    def sign(self, private_key: Ed25519PrivateKey, text: bytes) -> bytes:
        """What follows the key id in a signature line."""
        ...

    def verify(self, public_key: bytes, text: bytes, signature: bytes) -> None:
        """Return if it is a signature over the text, else raise `SignatureError`."""
        ...


@dataclass(frozen=True, slots=True)
class Ed25519:
    """Type 0x01: over the text as it is."""

    number: int = field(default=0x01, init=False)

    def sign(self, private_key: Ed25519PrivateKey, text: bytes) -> bytes:
        """Return 64 bytes."""
        return private_key.sign(text)

    def verify(self, public_key: bytes, text: bytes, signature: bytes) -> None:
        """Return if `signature` is over the text, else raise `SignatureError`."""
        verify_ed25519(public_key, text, signature)


ED25519: Final = Ed25519()


def sign_note(
    private_key: Ed25519PrivateKey,
    name: str,
    text: str,
    kind: SignatureType = ED25519,
) -> bytes:
    """Sign a text, which ends with a newline, as `name`."""
    _check_name(name)
    if not _is_note_text(text):
        raise CorruptFileError("a note is printable text and ends with a newline")
    return f"{text}\n".encode() + _signature_line(private_key, name, text, kind)


def add_signature(
    note: bytes, private_key: Ed25519PrivateKey, name: str, kind: SignatureType
) -> bytes:
    """Return the note with one more signature line; the others are kept as they are."""
    _check_name(name)
    text, _ = _split_note(note)
    return note + _signature_line(private_key, name, text, kind)


def open_note(
    data: bytes, public_key: bytes, name: str, kind: SignatureType = ED25519
) -> str:
    """Verify a signed note and return its text.

    Signatures by others are passed over, as the format asks, so that witnesses may add
    theirs. One that carries our signer's name and key id must verify.

    Args:
        data: The note.
        public_key: Ed25519, 32 raw bytes.
        name: The signer's name.
        kind: How it signs.

    Raises:
        SignatureError: if there is no signature by this key, or it does not verify.
        CorruptFileError: if `data` is not a signed note.
    """
    text, signature = find_signature(data, public_key, name, kind)
    try:
        kind.verify(public_key, text.encode(), signature)
    except SignatureError as error:
        raise SignatureError(f"the signature by {name} does not verify") from error
    return text


def find_signature(
    data: bytes, public_key: bytes, name: str, kind: SignatureType
) -> tuple[str, bytes]:
    """Return a note's text and what one signer's line says, which is not verified.

    Raises:
        SignatureError: if the signer has not one line.
        CorruptFileError: if `data` is not a signed note.
    """
    _check_name(name)
    text, lines = _split_note(data)
    wanted = (name, _key_id(name, public_key, kind))
    ours = [sign for who, id_, sign in map(_read_line, lines) if (who, id_) == wanted]
    if len(ours) != 1:
        raise SignatureError(f"expected 1 signature by {name}, got {len(ours)}")
    return text, ours[0]


def verifier_key(name: str, public_key: bytes, kind: SignatureType = ED25519) -> str:
    """Write a public key as signed-note tools do: `name+key id+base64 key`."""
    _check_name(name)
    key_id = _key_id(name, public_key, kind).hex()
    return f"{name}+{key_id}+{b64encode(bytes([kind.number]) + public_key).decode()}"


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Return if `signature` is over `message`, else raise `SignatureError`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the Ed25519 signature does not verify") from error


def decode_base64(encoded: str) -> bytes:
    """Read base64 that is written the one right way."""
    try:
        value = b64decode(encoded, validate=True)
    except ValueError as error:
        raise CorruptFileError("expected base64") from error
    if b64encode(value).decode() != encoded:
        raise CorruptFileError("expected base64 in its one canonical form")
    return value


def _signature_line(
    private_key: Ed25519PrivateKey, name: str, text: str, kind: SignatureType
) -> bytes:
    public_key = private_key.public_key().public_bytes_raw()
    value = _key_id(name, public_key, kind) + kind.sign(private_key, text.encode())
    return f"{_MARK}{name} {b64encode(value).decode()}\n".encode()


def _key_id(name: str, public_key: bytes, kind: SignatureType) -> bytes:
    named = name.encode() + b"\n" + bytes([kind.number]) + public_key
    return sha256(named).digest()[:_ID_BYTES]


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


def _read_line(line: str) -> tuple[str, bytes, bytes]:
    """Split a signature line into the signer's name, its key id and the signature."""
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    value = decode_base64(encoded)
    if not line.startswith(_MARK) or not space or len(value) <= _ID_BYTES:
        raise CorruptFileError("a signature line of the note is malformed")
    _check_name(name)
    return name, value[:_ID_BYTES], value[_ID_BYTES:]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CorruptFileError("a signer's name has no spaces and no plus sign")

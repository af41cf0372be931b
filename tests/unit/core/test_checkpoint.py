"""Signed notes as other tools read and write them, and checkpoints on top."""

from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from core.errors import CorruptFileError, SignatureError
from core.merkle import EMPTY_ROOT
from core.notes import open_note, sign_note, verifier_key

DASH = "\N{EM DASH}"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
ORIGIN = "ward.example/keymixer-audit"
ROOT = bytes(range(100, 132))
NOTE = sign_checkpoint(PRIVATE, ORIGIN, 42, ROOT)

# The example of Go's note package, which C2SP signed-note was written from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_PUBLIC = b64decode(GO_KEY.split("+", 2)[2])[1:]
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    f"{DASH} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}".encode()


def signed(text: str) -> bytes:
    return sign_note(PRIVATE, ORIGIN, text)


def test_the_published_note_verifies() -> None:
    assert open_note(GO_NOTE, GO_PUBLIC, "PeterNeumann") == GO_TEXT


def test_a_verifier_key_is_written_as_published() -> None:
    assert verifier_key("PeterNeumann", GO_PUBLIC) == GO_KEY


def test_a_checkpoint_is_read_back() -> None:
    assert Checkpoint(ORIGIN, 42, ROOT) == open_checkpoint(NOTE, PUBLIC, ORIGIN)


def test_a_checkpoint_has_the_documented_lines() -> None:
    """tlog-checkpoint: origin, decimal size, base64 root, blank line, signature."""
    origin, size, root, blank, signature, end = NOTE.decode().split("\n")
    mark, name, value = signature.split(" ")

    assert (ORIGIN, "42", b64encode(ROOT).decode()) == (origin, size, root)
    assert (blank, mark, name, end) == ("", DASH, ORIGIN, "")
    assert len(b64decode(value)) == 4 + 64


def test_the_empty_tree_has_a_checkpoint() -> None:
    note = sign_checkpoint(PRIVATE, ORIGIN, 0, EMPTY_ROOT)

    assert Checkpoint(ORIGIN, 0, EMPTY_ROOT) == open_checkpoint(note, PUBLIC, ORIGIN)


def test_extension_lines_are_passed_over() -> None:
    text = f"{ORIGIN}\n42\n{b64encode(ROOT).decode()}\nan extension\n"

    assert open_checkpoint(signed(text), PUBLIC, ORIGIN).size == 42


def test_a_witness_may_add_its_signature() -> None:
    witness = Ed25519PrivateKey.generate()
    text = NOTE.decode().partition("\n\n")[0] + "\n"
    line = sign_note(witness, "witness.example", text).split(b"\n\n")[1]

    assert open_checkpoint(NOTE + line, PUBLIC, ORIGIN).size == 42
    assert open_note(
        NOTE + line, witness.public_key().public_bytes_raw(), "witness.example"
    )


@pytest.mark.parametrize("byte", range(len(NOTE)))
def test_a_checkpoint_with_any_byte_changed_is_refused(byte: int) -> None:
    changed = bytearray(NOTE)
    changed[byte] ^= 1

    with pytest.raises((SignatureError, CorruptFileError)):
        open_checkpoint(bytes(changed), PUBLIC, ORIGIN)


@pytest.mark.parametrize("length", range(0, len(NOTE), 7))
def test_a_checkpoint_cut_short_is_refused(length: int) -> None:
    with pytest.raises((SignatureError, CorruptFileError)):
        open_checkpoint(NOTE[:length], PUBLIC, ORIGIN)


def test_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    with pytest.raises(SignatureError, match="got 0"):
        open_checkpoint(NOTE, other, ORIGIN)


def test_the_checkpoint_of_another_log_is_refused() -> None:
    with pytest.raises(SignatureError):
        open_checkpoint(NOTE, PUBLIC, "other.example/log")


def test_a_note_signed_as_this_log_but_about_another_is_refused() -> None:
    text = f"other.example/log\n42\n{b64encode(ROOT).decode()}\n"

    with pytest.raises(SignatureError, match="another log"):
        open_checkpoint(signed(text), PUBLIC, ORIGIN)


def test_two_signatures_by_one_key_are_refused() -> None:
    line = NOTE.split(b"\n\n")[1]

    with pytest.raises(SignatureError, match="got 2"):
        open_checkpoint(NOTE + line, PUBLIC, ORIGIN)


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n",
        f"{ORIGIN}\n42\n",
        f"{ORIGIN}\n042\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n-1\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n+1\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n4_2\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n\N{FULLWIDTH DIGIT FOUR}\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n{10**30}\n{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n42\n{b64encode(ROOT[:31]).decode()}\n",
        f"{ORIGIN}\n42\n{b64encode(ROOT).decode().rstrip('=')}\n",
        f"{ORIGIN}\n42\n!{b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n42\n{b64encode(ROOT).decode()}\n\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CorruptFileError):
        open_checkpoint(signed(text), PUBLIC, ORIGIN)


def test_the_spare_bits_of_base64_are_not_free() -> None:
    """32 bytes leave two spare bits: another last letter would be another text."""
    root = b64encode(ROOT).decode()
    text = f"{ORIGIN}\n42\n{root[:-2]}{chr(ord(root[-2]) + 1)}=\n"

    assert b64decode(text.split("\n")[2]) == ROOT
    with pytest.raises(CorruptFileError, match="canonical"):
        open_checkpoint(signed(text), PUBLIC, ORIGIN)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\nnot a signature\n",
        f"text\n\n{DASH} name\n".encode(),
        f"text\n\n{DASH} name AAAA\n".encode(),
        f"text\n\n{DASH} na+me AAAAAAAA\n".encode(),
        f"text\n\n- {ORIGIN} AAAAAAAA\n".encode(),
        GO_NOTE[:-1],
        b"\xff" + GO_NOTE,
        b"a\tb" + GO_NOTE,
        b"a\r\n" + GO_NOTE,
        b"a" * 1_000_001,
    ],
    ids=lambda note: repr(note[:24]),
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(CorruptFileError):
        open_note(note, GO_PUBLIC, "PeterNeumann")


@pytest.mark.parametrize("name", ["", "two words", "a+b", "no\N{NO-BREAK SPACE}break"])
def test_a_name_that_breaks_the_line_is_refused(name: str) -> None:
    with pytest.raises(CorruptFileError):
        sign_note(PRIVATE, name, "text\n")


@pytest.mark.parametrize("text", ["", "no newline", "a\x00b\n", "tab\t\n"])
def test_a_text_that_cannot_be_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(CorruptFileError):
        signed(text)


@pytest.mark.parametrize(("size", "root"), [(-1, ROOT), (1, ROOT[:31])])
def test_an_impossible_tree_is_not_signed(size: int, root: bytes) -> None:
    with pytest.raises(CorruptFileError):
        sign_checkpoint(PRIVATE, ORIGIN, size, root)

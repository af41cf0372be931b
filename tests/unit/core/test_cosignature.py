"""Cosignatures as C2SP writes them, and nothing else."""

import struct
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.checkpoint import open_checkpoint, sign_checkpoint
from core.cosignature import (
    CosignatureV1,
    cosign,
    open_cosigned,
    witness_key,
    witness_name,
)
from core.errors import CorruptFileError, SignatureError
from core.notes import add_signature, sign_note

LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
PUBLIC = WITNESS.public_key().public_bytes_raw()
ORIGIN = "ward.example/keymixer-audit"
NAME = "witness.example/w1"
NOTE = sign_checkpoint(LOG, ORIGIN, 42, bytes(range(100, 132)))
AT_S = 1_679_315_147
LATEST = 2**63 - 1
COSIGNED = cosign(NOTE, WITNESS, NAME, AT_S)


def test_a_cosignature_says_when_it_was_made() -> None:
    assert open_cosigned(COSIGNED, PUBLIC, NAME) == AT_S


def test_a_cosignature_is_one_more_line_and_the_checkpoint_stays_what_it_was() -> None:
    line = COSIGNED.removeprefix(NOTE).decode()

    assert line.startswith(f"\N{EM DASH} {NAME} ")
    assert line.endswith("\n")
    log = LOG.public_key().public_bytes_raw()
    assert open_checkpoint(NOTE, log, ORIGIN) == open_checkpoint(COSIGNED, log, ORIGIN)


def test_the_line_and_the_signed_message_are_as_documented() -> None:
    """Made again by hand: key id, u64 time, Ed25519 over two lines and the text."""
    value = b64decode(COSIGNED.removeprefix(NOTE).split(b" ")[2])
    _, key_id, key = witness_key(NAME, PUBLIC).split("+")
    text = NOTE.partition(b"\n\n")[0] + b"\n"
    message = b"cosignature/v1\ntime 1679315147\n" + text

    assert bytes.fromhex(key_id) == value[:4]
    assert struct.pack(">Q", AT_S) == value[4:12]
    WITNESS.public_key().verify(value[12:], message)
    assert b"\x04" + PUBLIC == b64decode(key)


@pytest.mark.parametrize("byte", range(len(COSIGNED)))
def test_a_cosigned_checkpoint_with_any_byte_changed_is_refused(byte: int) -> None:
    """Whatever the log's own line says is for the log's key to answer."""
    changed = bytearray(COSIGNED)
    changed[byte] ^= 1

    with pytest.raises((SignatureError, CorruptFileError)):
        open_both(bytes(changed))


@pytest.mark.parametrize("byte", range(len(COSIGNED) - len(NOTE)))
def test_any_byte_of_the_line_itself_counts(byte: int) -> None:
    changed = bytearray(COSIGNED)
    changed[len(NOTE) + byte] ^= 1

    with pytest.raises((SignatureError, CorruptFileError)):
        open_cosigned(bytes(changed), PUBLIC, NAME)


def test_a_plain_signature_by_the_witness_is_no_cosignature() -> None:
    text = NOTE.decode().partition("\n\n")[0] + "\n"

    with pytest.raises(SignatureError, match="got 0"):
        open_cosigned(sign_note(WITNESS, NAME, text), PUBLIC, NAME)


def test_a_cosignature_by_another_witness_is_passed_over() -> None:
    other = cosign(COSIGNED, LOG, "witness.example/w2", AT_S + 1)

    assert open_cosigned(other, PUBLIC, NAME) == AT_S


def test_an_unknown_type_of_signature_is_passed_over() -> None:
    """Such as a post-quantum one, which is much longer."""
    unknown = sign_note(LOG, "witness.example/pq", "x\n").partition(b"\n\n")[2]

    assert open_cosigned(COSIGNED + unknown * 16, PUBLIC, NAME) == AT_S


@pytest.mark.parametrize("at_s", [-1, 2**63])
def test_a_time_that_no_cosignature_can_say_is_refused(at_s: int) -> None:
    with pytest.raises(CorruptFileError):
        cosign(NOTE, WITNESS, NAME, at_s)


def test_the_last_time_there_is_can_be_said() -> None:
    assert open_cosigned(cosign(NOTE, WITNESS, NAME, LATEST), PUBLIC, NAME) == LATEST


def test_a_later_time_is_refused_though_the_witness_signed_it() -> None:
    """Read as a signed number, as others do, it would be long before the epoch."""
    late = add_signature(NOTE, WITNESS, NAME, TooLate())

    with pytest.raises(SignatureError):
        open_cosigned(late, PUBLIC, NAME)


def test_a_witness_is_named_without_the_scheme() -> None:
    """A verifier's key is `name+key id+key`, and other tools read it."""
    name = witness_name("spiffe://clinics.example/alder/data-owner")

    assert name == "clinics.example/alder/data-owner"


class TooLate(CosignatureV1):
    """Signs 2^63, which a witness of ours refuses to."""

    def sign(self, private_key: Ed25519PrivateKey, text: bytes) -> bytes:
        said = b"cosignature/v1\ntime %d\n" % (LATEST + 1) + text
        return (LATEST + 1).to_bytes(8, "big") + private_key.sign(said)


def open_both(note: bytes) -> None:
    open_cosigned(note, PUBLIC, NAME)
    open_checkpoint(note, LOG.public_key().public_bytes_raw(), ORIGIN)

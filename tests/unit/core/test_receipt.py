"""Receipts: read and written as the format says, and refused when a byte differs."""

from base64 import b64decode, b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.checkpoint import Checkpoint, sign_checkpoint
from core.errors import CorruptFileError, KeymixerError, SignatureError
from core.notes import sign_note
from core.receipt import (
    MAX_EXTRA_BYTES,
    MAX_RECEIPT_BYTES,
    Receipt,
    parse_receipt,
    verify_receipt,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
ORIGIN = "ward.example/keymixer-audit"
BODIES = [b'{"index":%d}' % index for index in range(64)]

# The example of https://c2sp.org/tlog-proof up to its signatures, which the text cuts.
C2SP_PATH = [
    "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=",
    "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=",
    "EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=",
    "RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=",
    "AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=",
]
C2SP_EXTRA = "YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ"
C2SP_CHECKPOINT = (
    "example.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n"
)


def c2sp_example(extra: str) -> bytes:
    lines = ["c2sp.org/tlog-proof@v1", f"extra {extra}", "index 73894", *C2SP_PATH]
    return ("\n".join(lines) + "\n\n" + C2SP_CHECKPOINT).encode()


def slow_root(bodies: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, letter by letter."""
    if len(bodies) == 1:
        return sha256(b"\x00" + bodies[0]).digest()
    k = split(len(bodies))
    return sha256(b"\x01" + slow_root(bodies[:k]) + slow_root(bodies[k:])).digest()


def slow_path(m: int, bodies: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1, letter by letter."""
    if len(bodies) == 1:
        return []
    k = split(len(bodies))
    if m < k:
        return [*slow_path(m, bodies[:k]), slow_root(bodies[k:])]
    return [*slow_path(m - k, bodies[k:]), slow_root(bodies[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return max(1 << i for i in range(8) if 1 << i < n)


def receipt_for(index: int, size: int) -> Receipt:
    note = sign_checkpoint(PRIVATE, ORIGIN, size, slow_root(BODIES[:size]))
    path = slow_path(index, BODIES[:size])
    return Receipt(index, tuple(path), note, BODIES[index])


RECEIPT = receipt_for(9, 13)
FILE = RECEIPT.to_bytes()


def replaced(old: bytes, new: bytes) -> bytes:
    assert FILE.count(old) == 1
    return FILE.replace(old, new)


def test_the_published_receipt_is_read_and_written_again() -> None:
    """The text's own extra data is cut short and is no base64; this is its whole."""
    whole = C2SP_EXTRA + "=" * (-len(C2SP_EXTRA) % 4)
    canonical = b64encode(b64decode(whole)).decode()
    receipt = parse_receipt(c2sp_example(canonical))

    assert receipt.index == 73894
    assert C2SP_PATH == [b64encode(node).decode() for node in receipt.path]
    assert receipt.extra.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    assert C2SP_CHECKPOINT.encode() == receipt.checkpoint
    assert c2sp_example(canonical) == receipt.to_bytes()


def test_a_receipt_has_the_documented_lines() -> None:
    header, extra, index, *path = FILE.decode().partition("\n\n")[0].split("\n")

    assert (header, index) == ("c2sp.org/tlog-proof@v1", "index 9")
    assert extra == "extra " + b64encode(BODIES[9]).decode()
    assert [b64encode(node).decode() for node in RECEIPT.path] == path


@pytest.mark.parametrize("size", range(1, 65))
def test_every_record_of_every_small_log_has_a_receipt(size: int) -> None:
    signed = Checkpoint(ORIGIN, size, slow_root(BODIES[:size]))
    note = sign_checkpoint(PRIVATE, ORIGIN, size, signed.root)
    for index in range(size):
        path = tuple(slow_path(index, BODIES[:size]))
        data = Receipt(index, path, note, BODIES[index]).to_bytes()
        receipt = parse_receipt(data)

        assert data == receipt.to_bytes()
        assert signed == verify_receipt(receipt, receipt.extra, PUBLIC, ORIGIN)


def test_a_receipt_names_its_log_by_itself() -> None:
    assert verify_receipt(RECEIPT, BODIES[9], PUBLIC).origin == ORIGIN


def test_a_receipt_without_extra_data_verifies_with_the_record() -> None:
    receipt = parse_receipt(Receipt(9, RECEIPT.path, RECEIPT.checkpoint).to_bytes())

    assert receipt.extra == b""
    assert verify_receipt(receipt, BODIES[9], PUBLIC, ORIGIN).size == 13


@pytest.mark.parametrize("byte", range(len(FILE)))
def test_a_receipt_with_any_byte_changed_is_refused(byte: int) -> None:
    for bit in (1, 0x20, 0x80):
        changed = bytearray(FILE)
        changed[byte] ^= bit
        with pytest.raises((SignatureError, CorruptFileError)):
            verify_file(bytes(changed))


@pytest.mark.parametrize("length", range(len(FILE)))
def test_a_receipt_cut_short_is_refused(length: int) -> None:
    with pytest.raises((SignatureError, CorruptFileError)):
        verify_file(FILE[:length])


def verify_file(data: bytes) -> None:
    receipt = parse_receipt(data)
    verify_receipt(receipt, receipt.extra, PUBLIC, ORIGIN)


def test_another_record_is_refused() -> None:
    with pytest.raises(SignatureError, match="record 9: "):
        verify_receipt(RECEIPT, BODIES[8], PUBLIC, ORIGIN)


def test_another_place_is_refused() -> None:
    moved = Receipt(8, RECEIPT.path, RECEIPT.checkpoint, RECEIPT.extra)

    with pytest.raises(SignatureError, match="record 8: "):
        verify_receipt(moved, moved.extra, PUBLIC, ORIGIN)


def test_a_place_behind_the_end_is_refused() -> None:
    beyond = Receipt(13, RECEIPT.path, RECEIPT.checkpoint, RECEIPT.extra)

    with pytest.raises(SignatureError, match="no leaf 13 in a tree of 13"):
        verify_receipt(beyond, beyond.extra, PUBLIC, ORIGIN)


def test_another_key_or_log_is_refused() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    for key, origin in ((other, ORIGIN), (other, None), (PUBLIC, "other.example")):
        with pytest.raises(SignatureError):
            verify_receipt(RECEIPT, BODIES[9], key, origin)


def test_witnesses_may_have_signed_the_checkpoint_too() -> None:
    text = RECEIPT.checkpoint.decode().partition("\n\n")[0] + "\n"
    witness = sign_note(Ed25519PrivateKey.generate(), "witness.example", text)
    cosigned = RECEIPT.checkpoint + witness.partition(b"\n\n")[2]

    verify_file(Receipt(9, RECEIPT.path, cosigned, RECEIPT.extra).to_bytes())


SPARE_BITS = b64encode(RECEIPT.path[0])
MALFORMED = {
    "empty": b"",
    "another version": replaced(b"proof@v1", b"proof@v2"),
    "a space after the header": replaced(b"@v1\n", b"@v1 \n"),
    "carriage returns": FILE.replace(b"\n", b"\r\n"),
    "extra data twice": replaced(b"index 9\n", b"extra AAAA\nindex 9\n"),
    "an empty extra line": replaced(b64encode(BODIES[9]), b""),
    "extra data after the index": replaced(b"index 9\n", b"index 9\nextra AAAA\n"),
    "base64 without padding": replaced(SPARE_BITS, SPARE_BITS.rstrip(b"=")),
    "base64 with spare bits": replaced(
        SPARE_BITS, SPARE_BITS[:-2] + bytes([SPARE_BITS[-2] + 1]) + b"="
    ),
    "base64 for addresses": replaced(SPARE_BITS, b64encode(b"\xff" * 32, b"-_")),
    "a short hash": replaced(SPARE_BITS, b64encode(bytes(31))),
    "a long hash": replaced(SPARE_BITS, b64encode(bytes(33))),
    "a space before a hash": replaced(SPARE_BITS, b" " + SPARE_BITS),
    "no index": replaced(b"index 9\n", b""),
    "a leading zero": replaced(b"index 9", b"index 09"),
    "a sign": replaced(b"index 9", b"index +9"),
    "a negative index": replaced(b"index 9", b"index -9"),
    "another digit": replaced(b"index 9", "index \N{ARABIC-INDIC DIGIT NINE}".encode()),
    "an endless index": replaced(b"index 9", b"index 9" + b"0" * 5000),
    "an index of 2^63": replaced(b"index 9", b"index %d" % 2**63),
    "64 hashes": replaced(SPARE_BITS, b"\n".join([SPARE_BITS] * 64)),
    "no checkpoint": FILE.partition(b"\n\n")[0] + b"\n\n",
    "nothing after the proof": FILE.partition(b"\n\n")[0],
    "too much extra data": replaced(
        b64encode(BODIES[9]), b64encode(bytes(MAX_EXTRA_BYTES + 1))
    ),
    "a file without end": FILE + b"\n" * MAX_RECEIPT_BYTES,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_written_in_another_way_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        parse_receipt(data)


@pytest.mark.parametrize(
    "receipt",
    [
        Receipt(-1, (), b"note\n"),
        Receipt(2**63, (), b"note\n"),
        Receipt(0, (bytes(31),), b"note\n"),
        Receipt(0, (bytes(32),) * 64, b"note\n"),
        Receipt(0, (), b""),
        Receipt(0, (), b"note\n", bytes(MAX_EXTRA_BYTES + 1)),
        Receipt(0, (), bytes(MAX_RECEIPT_BYTES)),
    ],
    ids=["negative", "too large", "short", "long path", "unsigned", "extra", "long"],
)
def test_what_could_not_be_read_is_not_written(receipt: Receipt) -> None:
    with pytest.raises(KeymixerError):
        receipt.to_bytes()

"""A receipt: one text file that proves, offline, that a record is in a signed log.

It is a C2SP tlog-proof: a record's index, its inclusion path from the leaf's sibling to
the root's child, a blank line, and the signed checkpoint as the log gave it:

    c2sp.org/tlog-proof@v1
    extra eyJhY3RvciI6InNwaWZmZTovLy4uLiJ9
    index 73894
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
    ...

    federation.example/keymixer-audit
    109482
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

    — federation.example/keymixer-audit Az3grlgtzPICa5OS8npVmf1Myq/5IZ...

The format leaves `extra` to the application and does not authenticate it. Keymixer puts
the record there, the canonical JSON that was hashed, so that one file says everything;
it is believed only because its own leaf hash leads to the signed root.

See https://c2sp.org/tlog-proof.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from core.checkpoint import Checkpoint, open_checkpoint, stated_origin
from core.errors import CorruptFileError, SignatureError
from core.merkle import HASH_BYTES, ProofError, leaf_hash, verify_inclusion
from core.notes import decode_base64

SUFFIX: Final = ".tlog-proof"
MAX_EXTRA_BYTES: Final = 65_535  # the longest entry of a tiled log
MAX_RECEIPT_BYTES: Final = 1 << 20

_HEADER: Final = "c2sp.org/tlog-proof@v1"
_EXTRA: Final = "extra "
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_LONGEST_PATH: Final = 63  # no checkpoint is over 2**63 records or more


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt file says; nothing of it is believed before `verify_receipt`."""

    # The record's place in the log, from 0.
    index: int
    # Hashes of 32 bytes, the leaf's sibling first.
    path: tuple[bytes, ...]
    # A signed note, byte for byte.
    checkpoint: bytes
    # The application's own; keymixer's: the record.
    extra: bytes = b""

    def to_bytes(self) -> bytes:
        """Write the file.

        Raises:
            CorruptFileError: if the parts do not make a receipt that could be read.
        """
        _check(self)
        text = "".join(f"{line}\n" for line in self._lines())
        return _sized(text.encode() + b"\n" + self.checkpoint)

    def _lines(self) -> Iterator[str]:
        yield _HEADER
        if self.extra:
            yield _EXTRA + b64encode(self.extra).decode()
        yield f"index {self.index}"
        yield from (b64encode(node).decode() for node in self.path)


def parse_receipt(data: bytes) -> Receipt:
    """Read a receipt that is written the one right way; its proof is not yet checked.

    Raises:
        CorruptFileError: if it is another file, too long, or written in another way.
    """
    head, blank, checkpoint = _sized(data).partition(b"\n\n")
    if not blank:
        raise CorruptFileError("expected a proof, a blank line, and a checkpoint")
    lines = _text(head).split("\n")
    if lines.pop(0) != _HEADER:
        raise CorruptFileError(f"expected the first line {_HEADER}")
    extra = _take_extra(lines)
    index = _take_index(lines)
    receipt = Receipt(index, tuple(map(decode_base64, lines)), checkpoint, extra)
    _check(receipt)
    return receipt


def verify_receipt(
    receipt: Receipt, body: bytes, public_key: bytes, origin: str | None = None
) -> Checkpoint:
    """Return the checkpoint, if the log signed it and `body` is at the receipt's index.

    Args:
        receipt: From `parse_receipt`; its `extra` is not looked at.
        body: The record, exactly as it was hashed.
        public_key: The log's Ed25519 key, 32 raw bytes.
        origin: The log's name; None: the one that the checkpoint gives, for which the
            key answers.

    Raises:
        SignatureError: if the checkpoint is not the log's, or the path does not lead
            from the record to its root.
        CorruptFileError: if the checkpoint is none.
    """
    note = receipt.checkpoint
    signed = open_checkpoint(note, public_key, origin or stated_origin(note))
    try:
        verify_inclusion(
            leaf=leaf_hash(body),
            index=receipt.index,
            size=signed.size,
            path=receipt.path,
            root_hash=signed.root,
        )
    except ProofError as error:
        raise SignatureError(f"record {receipt.index}: {error}") from error
    return signed


def _take_extra(lines: list[str]) -> bytes:
    if not lines or not lines[0].startswith(_EXTRA):
        return b""
    extra = decode_base64(lines.pop(0).removeprefix(_EXTRA))
    if not extra:
        raise CorruptFileError("an extra line that is empty is left out")
    return extra


def _take_index(lines: list[str]) -> int:
    found = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if found is None:
        raise CorruptFileError("expected a line with the index, in decimal")
    return int(found[1])


def _check(receipt: Receipt) -> None:
    if len(receipt.extra) > MAX_EXTRA_BYTES:
        raise CorruptFileError(
            f"{len(receipt.extra)} bytes of extra data, at most {MAX_EXTRA_BYTES} fit"
        )
    if not 0 <= receipt.index < 1 << _LONGEST_PATH:
        raise CorruptFileError("an index counts from 0 and is below 2^63")
    _check_path(receipt.path)
    if not receipt.checkpoint:
        raise CorruptFileError("expected a checkpoint after the blank line")


def _check_path(path: Sequence[bytes]) -> None:
    if len(path) > _LONGEST_PATH:
        raise CorruptFileError(f"{len(path)} hashes, at most {_LONGEST_PATH} fit")
    if any(len(node) != HASH_BYTES for node in path):
        raise CorruptFileError(f"every hash of a path has {HASH_BYTES} bytes")


def _sized(data: bytes) -> bytes:
    if len(data) > MAX_RECEIPT_BYTES:
        raise CorruptFileError(
            f"{len(data)} bytes, a receipt has at most {MAX_RECEIPT_BYTES}"
        )
    return data


def _text(head: bytes) -> str:
    try:
        return head.decode("ascii")
    except UnicodeDecodeError as error:
        raise CorruptFileError("a receipt's proof is ASCII") from error

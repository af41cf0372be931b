"""Receipts of the audit log's records: asked for, and read back as a record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from core.checkpoint import Checkpoint, open_checkpoint, stated_origin
from core.errors import CorruptFileError, NotFound
from core.receipt import Receipt, parse_receipt, verify_receipt
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.errors import AuditBroken, RecordMalformed
from protos import audit_pb2 as pb


class LogReader(Protocol):
    """Whoever may read the log, such as `orchestrator.operator.Operator`."""

    def entries(self, start: int = 0) -> Iterator[pb.AuditEntry]:
        """The records from `start` on."""
        ...

    def checkpoint(self) -> pb.GetCheckpointResponse:
        """The newest signed checkpoint and the log's public key."""
        ...

    def inclusion_proof(self, index: int, size: int) -> pb.GetInclusionProofResponse:
        """Prove that a record is in the tree of `size` records."""
        ...


@dataclass(frozen=True, slots=True)
class ProvenRecord:
    """A record, and the checkpoint of the log that it is proved to be in."""

    entry: Entry
    # RFC 8785 canonical JSON, exactly the bytes that were hashed.
    body: bytes
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class FetchedReceipt:
    """A receipt that verifies with the key that came with it."""

    receipt: Receipt
    # The log's Ed25519 key as its orchestrator gives it, 32 raw bytes.
    public_key: bytes
    proven: ProvenRecord


def fetch_receipt(log: LogReader, index: int) -> FetchedReceipt:
    """Ask a log for the receipt of record `index`, and verify it.

    Raises:
        NotFound: if the log has no such record.
        SignatureError: if what the log gives does not verify.
    """
    entry = next(log.entries(index), None)
    if entry is None or entry.index != index:
        raise NotFound(f"the log has no record {index}: see `keymixer audit list`")
    # After the record: so that the newest checkpoint covers it.
    answer = log.checkpoint()
    note, key = answer.checkpoint, answer.public_key
    size = open_checkpoint(note, key, stated_origin(note)).size
    path = tuple(log.inclusion_proof(index, size).path)
    receipt = Receipt(index, path, note, entry.body)
    return FetchedReceipt(receipt, key, _prove(receipt, key, None))


def read_receipt(
    data: bytes, public_key: bytes, origin: str | None = None
) -> ProvenRecord:
    """Verify a receipt file that carries its record, and return what it says.

    Args:
        data: The file.
        public_key: The log's Ed25519 key, 32 raw bytes.
        origin: The log's name; None: the one that the checkpoint gives.

    Raises:
        CorruptFileError: if it is no receipt, or carries no record.
        SignatureError: if the record is not in a log that the key has signed.
        AuditBroken: if the log has signed something that is no record of that index.
    """
    return _prove(parse_receipt(data), public_key, origin)


def _prove(receipt: Receipt, public_key: bytes, origin: str | None) -> ProvenRecord:
    if not receipt.extra:
        raise CorruptFileError("the receipt does not carry its record")
    signed = verify_receipt(receipt, receipt.extra, public_key, origin)
    try:
        entry = parse_entry(receipt.extra)
    except RecordMalformed as error:
        difference = f"its body is no record: {error}"
        raise AuditBroken("record", receipt.index, difference) from error
    if entry.index != receipt.index:
        raise AuditBroken("record", receipt.index, f"its body is that of {entry.index}")
    return ProvenRecord(entry, receipt.extra, signed)

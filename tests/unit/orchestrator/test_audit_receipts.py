"""A receipt from a real log verifies alone, and says nothing that the log did not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from core.checkpoint import sign_checkpoint
from core.errors import CorruptFileError, NotFound, SignatureError
from core.receipt import Receipt, parse_receipt
from orchestrator.audit.receipts import fetch_receipt, read_receipt
from orchestrator.audit.records import Entry
from orchestrator.audit.writer import AuditLog
from orchestrator.errors import AuditBroken
from protos import audit_pb2 as pb
from tests.unit.orchestrator.logs import (
    ORIGIN,
    PUBLIC_KEY,
    SIGNING_KEY,
    append,
    opened,
)

SIZE = 21


@dataclass
class Reader:
    """An operator's three calls, answered by a log in this process."""

    log: AuditLog

    def entries(self, start: int = 0) -> Iterator[pb.AuditEntry]:
        for entry in self.log.entries(start, 1):
            yield pb.AuditEntry(index=entry.index, body=entry.body)

    def checkpoint(self) -> pb.GetCheckpointResponse:
        key = self.log.public_key
        return pb.GetCheckpointResponse(
            checkpoint=self.log.checkpoint(), public_key=key
        )

    def inclusion_proof(self, index: int, size: int) -> pb.GetInclusionProofResponse:
        proof = self.log.inclusion_proof(index, size)
        return pb.GetInclusionProofResponse(leaf_hash=proof.leaf_hash, path=proof.path)


class OneBehind(Reader):
    """Gives the record before the one that is asked for, under its index."""

    def entries(self, start: int = 0) -> Iterator[pb.AuditEntry]:
        body = self.log.entries(start - 1, 1)[0].body
        yield pb.AuditEntry(index=start, body=body)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    with opened(tmp_path) as (database, log):
        append(database, log, SIZE)
        yield log


def alone(body: bytes, index: int = 0) -> bytes:
    """The receipt of a log that has signed one body, whatever it is."""
    note = sign_checkpoint(SIGNING_KEY, ORIGIN, 1, sha256(b"\x00" + body).digest())
    return Receipt(index, (), note, body).to_bytes()


def test_every_record_of_a_log_has_a_receipt_that_verifies_alone(log: AuditLog) -> None:
    for stored in log.entries(0, SIZE):
        fetched = fetch_receipt(Reader(log), stored.index)
        proven = read_receipt(fetched.receipt.to_bytes(), PUBLIC_KEY, ORIGIN)

        assert fetched.proven == proven
        assert (fetched.public_key, proven.body) == (PUBLIC_KEY, stored.body)
        assert proven.entry.index == stored.index
        assert (proven.checkpoint.origin, proven.checkpoint.size) == (ORIGIN, SIZE)


def test_a_record_that_is_not_there_has_no_receipt(log: AuditLog) -> None:
    with pytest.raises(NotFound, match=f"no record {SIZE}"):
        fetch_receipt(Reader(log), SIZE)


def test_a_log_that_gives_another_record_is_caught_when_asked(log: AuditLog) -> None:
    with pytest.raises(SignatureError, match="record 9: "):
        fetch_receipt(OneBehind(log), 9)


def test_a_receipt_with_another_record_is_refused(log: AuditLog) -> None:
    receipt = fetch_receipt(Reader(log), 9).receipt
    forged = replace(receipt, extra=receipt.extra.replace(b"k9", b"k8"))

    with pytest.raises(SignatureError, match="record 9: "):
        read_receipt(forged.to_bytes(), PUBLIC_KEY)


def test_a_receipt_that_does_not_carry_its_record_is_told_apart(log: AuditLog) -> None:
    receipt = fetch_receipt(Reader(log), 9).receipt

    with pytest.raises(CorruptFileError, match="does not carry its record"):
        read_receipt(replace(receipt, extra=b"").to_bytes(), PUBLIC_KEY)


def test_a_signed_record_under_another_index_is_refused() -> None:
    """The log itself signed it: the proof holds, and the record is still wrong."""
    body = Entry(7, 0, "key.created", "", {}).to_bytes()

    with pytest.raises(AuditBroken, match="record 0: its body is that of 7"):
        read_receipt(alone(body), PUBLIC_KEY)


def test_something_signed_that_is_no_record_is_refused() -> None:
    with pytest.raises(AuditBroken, match="record 0: its body is no record"):
        read_receipt(alone(b"{}"), PUBLIC_KEY)


def test_a_receipt_of_ten_thousand_records_is_small() -> None:
    """14 hashes and 200 bytes of record: well under 2 kB, whatever the log's size."""
    note = sign_checkpoint(SIGNING_KEY, ORIGIN, 10_000, bytes(32))
    body = Entry(7, 0, "key.created", "", {"key_id": "k" * 100}).to_bytes()
    receipt = Receipt(7, (bytes(32),) * 14, note, body)

    assert parse_receipt(receipt.to_bytes()) == receipt
    assert len(receipt.to_bytes()) < 2000

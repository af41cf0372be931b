"""Logs for tests: a fixed key, a clock that ticks once a record, records on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.database import Database
from orchestrator.audit.records import Fact
from orchestrator.audit.writer import AuditLog
from orchestrator.registry.database import open_database

ORIGIN = "test.example/keymixer-audit"
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = SIGNING_KEY.public_key().public_bytes_raw()
OWNER = "spiffe://test/clinic/data-owner"
OPERATOR = "spiffe://test/hub/operator"


def new_log(database: Database, side_file: Path | None = None) -> AuditLog:
    clock = count(1_750_000_000_000).__next__
    return AuditLog(database, ORIGIN, SIGNING_KEY, clock, side_file=side_file)


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Database, AuditLog]]:
    with open_database(f"sqlite:///{folder}/registry.db") as database:
        yield database, new_log(database)


def append(database: Database, log: AuditLog, records: int) -> None:
    """Append records, all in one transaction."""
    with database.transaction() as session:
        for number in range(records):
            subject: dict[str, Fact] = {
                "key_id": f"k{number}",
                "version": number,
                "overlap_s": 0.5,
            }
            log.append(session, "key.created", OPERATOR, subject, [OWNER])

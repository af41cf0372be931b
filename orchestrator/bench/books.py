"""A log of answers in a database of its own, to be measured.

Who and what the answers speak of is introduced first, as in a federation: a log of
nothing but answers would rightly be found broken.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session

from core.database import Database
from orchestrator.audit.records import Fact
from orchestrator.audit.verify import LogReport, verify_log
from orchestrator.audit.writer import AuditLog
from orchestrator.registry.database import open_database

_ORIGIN: Final = "bench.keymixer/audit"
_OPERATOR: Final = "spiffe://bench.keymixer/consortium/operator"
_SERVER: Final = "spiffe://bench.keymixer/cloud/inference-server"
_OWNER: Final = "spiffe://bench.keymixer/clinic/data-owner"


@dataclass(frozen=True, slots=True)
class Book:
    """A database with nothing but a log in it."""

    database: Database
    log: AuditLog
    # How many records the introduction takes.
    introduced: int

    def append(self, session: Session) -> None:
        """Append one record, the like of an answer's."""
        facts = {**_ANSWER, "request_id": str(uuid4())}
        self.log.append(session, "inference", _SERVER, facts, [_OWNER])

    def append_alone(self) -> None:
        """Append with a commit of its own."""
        with self.database.transaction() as session:
            self.append(session)

    def append_together(self) -> None:
        """Append, and share the commit with those who wait."""
        self.database.together(self.append)

    def verify(self) -> LogReport:
        """Sign the log and recompute it, as `keymixer audit verify` does."""
        self.log.checkpoint()
        return verify_log(self.database, self.log.public_key)


@contextmanager
def open_book(folder: Path) -> Iterator[Book]:
    """Start a book in an empty folder, which is made."""
    folder.mkdir(parents=True)
    key = Ed25519PrivateKey.generate()
    with open_database(f"sqlite:///{folder / 'registry.db'}") as database:
        log = AuditLog(database, _ORIGIN, key, _now_ms)
        with database.transaction() as session:
            for kind, facts in _INTRODUCTION:
                log.append(session, kind, _OPERATOR, facts)
        yield Book(database, log, len(_INTRODUCTION))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_KEY: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        "owner": _OWNER,
        "model": "cells",
        "key_id": "clinic.cells",
        "key_version": 1,
    }
)
_INTRODUCTION: Final[tuple[tuple[str, Mapping[str, Fact]], ...]] = (
    *(("party.enrolled", {"party": each}) for each in (_OPERATOR, _SERVER, _OWNER)),
    (
        "model.registered",
        {"model": "cells", "model_version": 1, "manifest_sha256": "0" * 64},
    ),
    ("model.granted", {"owner": _OWNER, "model": "cells"}),
    ("key.created", {**_KEY, "state": "pre_active"}),
    ("issued.live", {**_KEY, "issued_state": "live", "model_version": 1}),
    ("key.activated", {**_KEY, "state": "active"}),
)
# What the record of one answer says, beside its request.
_ANSWER: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        **_KEY,
        "model_version": 1,
        "model_digest": "0" * 64,
        "organisation": "clinic",
        "images": 1,
        "batch": 1,
        "request_digest": "1" * 64,
        "result_digest": "2" * 64,
        "compute_ms": 3.25,
        "latency_ms": 4.75,
        "status": "released",
        "server": _SERVER,
    }
)

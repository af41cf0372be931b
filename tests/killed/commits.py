"""What a commit changes, read from the database itself just before it happens."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import local
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from tests.killed.points import Watch, is_of_a_workflow

# Each row has a name and what is to be seen of it: no times, numbers or digests, which
# differ from run to run. What changes between two commits are the labels of the second.
ORCHESTRATOR: Final = {
    "job": """
        SELECT CAST(id AS TEXT), kind || ' ' || subject || ' at ' || step || ': '
        || state || CASE WHEN lease_holder IS NULL THEN '' ELSE ', leased' END
        FROM jobs""",
    "key": """
        SELECT key_id || '/' || version, key_id || '/' || version || ' ' || state
        || CASE WHEN commitment IS NULL THEN '' ELSE ', drawn' END
        || CASE WHEN confirmed THEN ', confirmed' ELSE '' END
        || CASE WHEN is_primary THEN ', primary' ELSE '' END
        FROM key_versions JOIN keys ON keys.id = key_pk""",
    "issue": """
        SELECT CAST(issued_models.id AS TEXT), key_id || '/' || key_versions.version
        || ' of ' || model_versions.version || ' ' || issued_models.state
        FROM issued_models
        JOIN key_versions ON key_versions.id = key_version_id
        JOIN keys ON keys.id = key_pk
        JOIN model_versions ON model_versions.id = model_version_id""",
    "model": """
        SELECT models.name || '/' || version, models.name || '/' || version
        || CASE WHEN exposed_at_ms IS NULL THEN '' ELSE ' exposed' END
        FROM model_versions JOIN models ON models.id = model_id""",
    "alias": """
        SELECT models.name || ' ' || alias,
        models.name || ' ' || alias || ' is ' || version
        FROM model_aliases JOIN models ON models.id = model_id""",
    "grant": """
        SELECT CAST(id AS TEXT), CAST(id AS TEXT)
        || CASE WHEN revoked_at_ms IS NULL THEN '' ELSE ' revoked' END
        FROM grants""",
    "approval": "SELECT CAST(id AS TEXT), action || ' ' || state FROM approvals",
    "party": "SELECT spiffe_id, spiffe_id || ' ' || state FROM parties",
}
KEY_HOLDER: Final = {
    "key": """
        SELECT key_id || '/' || version, key_id || '/' || version
        || CASE WHEN destroyed_at_ms IS NULL THEN '' ELSE ' destroyed' END
        FROM key_versions""",
    "embedding": """
        SELECT model || '/' || version, model || '/' || version FROM embeddings""",
}
_CHANGE: Final = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
# The log is seen by its records. It is signed and witnessed, and the pulse is written,
# by the clock, whatever happens; and a job that is leased anew looks as it did.
_SEEN_OTHERWISE: Final = frozenset(
    {
        "audit_event_ids",
        "audit_leaf_parties",
        "audit_leaves",
        "audit_nodes",
        "audit_notes",
        "audit_request_ids",
        "checkpoints",
        "cosignatures",
        "jobs",
        "pulse",
    }
)
_LOG_SIZE: Final = "SELECT count(*) FROM audit_leaves"
_RECORDS: Final = 'SELECT body FROM audit_leaves WHERE "index" >= {} ORDER BY "index"'
# What names the subject of a record; the rest of its facts need not be in a label.
_NAMES: Final = ("key_id", "key_version", "version", "model", "model_version")

Rows = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Seen:
    """What a transaction found before its first change, and which tables it changed."""

    rows: Rows
    log_size: int
    tables: set[str] = field(default_factory=set)


@dataclass
class Commits:
    """Passes a point before and after every commit that changes anything."""

    watch: Watch
    queries: Mapping[str, str]
    with_log: bool
    _own: local = field(default_factory=local)

    def listen(self) -> None:
        """From now on, for every engine and session of this process."""
        event.listen(Engine, "before_cursor_execute", self._change)
        event.listen(Engine, "commit", self._before)
        event.listen(Engine, "rollback", self._forget)
        event.listen(Session, "after_commit", self._after)

    def _change(
        self, connection: Connection, _cursor: object, statement: str, *_: object
    ) -> None:
        """Look at the rows at the first one: all other writers are kept out by then."""
        changed = _CHANGE.match(statement)
        if changed is None or not self.watch.ledger.armed():
            return
        if (seen := self._seen()) is None:
            seen = self._own.seen = self._look(connection)
        seen.tables.add(changed[1])

    def _before(self, connection: Connection) -> None:
        seen, self._own.seen = self._seen(), None
        self._own.labels = [] if seen is None else self._changes(connection, seen)
        self.watch.passes("before", self._own.labels)

    def _after(self, _session: Session) -> None:
        labels, self._own.labels = getattr(self._own, "labels", []), []
        self.watch.passes("after", labels)

    def _forget(self, _connection: Connection) -> None:
        self._own.seen = None

    def _seen(self) -> Seen | None:
        return getattr(self._own, "seen", None)

    def _look(self, connection: Connection) -> Seen:
        size = connection.exec_driver_sql(_LOG_SIZE).scalar() if self.with_log else 0
        return Seen(self._rows(connection), int(size or 0))

    def _changes(self, connection: Connection, seen: Seen) -> list[str]:
        changed = {
            f"{kind} {shown}"
            for (kind, name), shown in self._rows(connection).items()
            if seen.rows.get((kind, name)) != shown
        }
        changed |= set(self._new_records(connection, seen.log_size))
        others = seen.tables - _SEEN_OTHERWISE
        return sorted(changed or {f"change of {table}" for table in others})

    def _rows(self, connection: Connection) -> Rows:
        return {
            (kind, name): shown
            for kind, query in self.queries.items()
            for name, shown in connection.exec_driver_sql(query)
        }

    def _new_records(self, connection: Connection, size: int) -> Iterator[str]:
        if not self.with_log:
            return
        for (body,) in connection.exec_driver_sql(_RECORDS.format(size)):
            entry = json.loads(body)
            if is_of_a_workflow(entry["kind"]):
                yield _record(entry)


def _record(entry: Mapping[str, Any]) -> str:
    facts = entry["subject"]
    named = " ".join(str(facts[name]) for name in _NAMES if name in facts)
    return f"record {entry['kind']} {named}".strip()

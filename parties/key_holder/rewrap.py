"""Put another key-encryption key (KEK) into use, and wrap every data key under it.

First the new KEK is put into use, so that nothing more is sealed under the old one;
then data keys are wrapped anew, some in each transaction. Killed at any instant, every
record names the KEK that it is under, and the same call goes on with what is left. A
key holder that serves meanwhile finds an unknown KEK by its URL in the list of KEKs. No
sealed content is read or written.

At the end the database's log is emptied, so that no data key under the old KEK is left
in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session, defer

from core.database import Database
from core.errors import DatabaseBusyError
from parties.key_holder.at_rest import Entropy, KeyEncryptionKey, rewrap_record
from parties.key_holder.errors import (
    CorruptRecordError,
    KekUnlistedError,
    RewrapOvertakenError,
)
from parties.key_holder.keychain import Keychain
from parties.key_holder.rows import bound_to, kek_ids
from parties.key_holder.tables import EmbeddingRow, KeyVersionRow

BATCH: Final = 200

_Row: TypeAlias = KeyVersionRow | EmbeddingRow
_Table: TypeAlias = type[KeyVersionRow] | type[EmbeddingRow]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What is under the KEK now, `moved` of it by this call, and what does not open.

    `remains` says that data keys under the old KEK may be left in the database's log or
    in old versions of its rows: a reader was in the way, or it is no SQLite database.
    """

    kek_id: str
    since_ms: int
    key_versions: int
    embeddings: int
    moved: int
    broken: tuple[str, ...]
    remains: bool


def rewrap(
    database: Database,
    keychain: Keychain,
    url: str,
    *,
    entropy: Entropy,
    now_ms: int,
    batch: int = BATCH,
) -> Rewrapped:
    """Have every record under the KEK at `url`; a file that is not there is made.

    A record that does not open is left as it is, and named in the answer.

    Raises:
        KekMismatchError: a KEK that records are under is not where it was; nothing was
            changed. So are the other errors of a KEK.
        KekUnlistedError: the list of KEKs was lost; nothing was changed.
        RewrapOvertakenError: another rewrap has put another KEK into use meanwhile.
    """
    _load_those_needed(database, keychain)
    kek = keychain.load(url, make=_is_new(keychain, url))
    with database.transaction() as session:
        keychain.put_in_use(session, kek, url, now_ms)
    moved, broken = 0, []
    for table in (KeyVersionRow, EmbeddingRow):
        walk = _Walk(database, keychain, kek, table, entropy)
        while walk.step(batch):
            pass
        moved += walk.moved
        broken += walk.broken
    remains = not _emptied(database)
    return _summary(database, keychain, moved, broken, remains=remains)


class _Walk:
    """One way through a table, in the order of its primary key."""

    def __init__(
        self,
        database: Database,
        keychain: Keychain,
        kek: KeyEncryptionKey,
        table: _Table,
        entropy: Entropy,
    ) -> None:
        self.moved = 0
        self.broken: list[str] = []
        self._database = database
        self._keychain = keychain
        self._kek = kek
        self._table = table
        self._entropy = entropy
        self._passed: tuple[str, int] = ("", 0)

    def step(self, count: int) -> bool:
        """Move the next records in one transaction; False if there are none."""
        with self._database.transaction() as session:
            if self._keychain.listed_in_use(session).id != self._kek.id:
                raise RewrapOvertakenError("another key was put into use meanwhile")
            rows = self._next(session, count)
            opened = [row for row in rows if self._moves(row)]
        if rows:
            self._passed = _name(rows[-1])
        self.moved += len(opened)
        return bool(rows)

    def _next(self, session: Session, count: int) -> Sequence[Any]:
        table = self._table
        # Sealed contents may be large, and are not needed.
        chosen = (
            select(table)
            .where(table.kek_id != self._kek.id, tuple_(*_key(table)) > self._passed)
            .order_by(*_key(table))
            .limit(count)
            .options(defer(table.sealed))
        )
        return session.scalars(chosen).all()

    def _moves(self, row: _Row) -> bool:
        try:
            old = self._keychain.wrapping(row.kek_id)
            row.wrapped = rewrap_record(
                old, self._kek, bound_to(row), row.wrapped or b"", self._entropy
            )
        except CorruptRecordError:
            self.broken.append("{} version {}".format(*_name(row)))
            return False
        row.kek_id = self._kek.id
        return True


def _is_new(keychain: Keychain, url: str) -> bool:
    """Whether nothing can be sealed under the KEK of that URL yet."""
    return all(listed.url != url for listed in keychain.listed().keks.values())


def _load_those_needed(database: Database, keychain: Keychain) -> None:
    """Those that are not listed are left out: their records are named as broken."""
    with database.reading() as session:
        needed = kek_ids(session)
    listed = keychain.listed()
    if needed and listed.used() is None:
        raise KekUnlistedError("keks.json is missing, and there are records")
    for kek_id in needed & listed.keks.keys():
        keychain.key(listed.keks[kek_id])


def _emptied(database: Database) -> bool:
    """Whether nothing of the old wrappings is left; waits for readers for a while."""
    try:
        database.empty_log()
    except DatabaseBusyError:
        return False
    return database.folder is not None


def _summary(
    database: Database,
    keychain: Keychain,
    moved: int,
    broken: Sequence[str],
    *,
    remains: bool,
) -> Rewrapped:
    with database.reading() as session:
        used = keychain.listed_in_use(session)
        return Rewrapped(
            kek_id=used.id,
            since_ms=used.since_ms,
            key_versions=_under(session, KeyVersionRow, used.id),
            embeddings=_under(session, EmbeddingRow, used.id),
            moved=moved,
            broken=tuple(broken),
            remains=remains,
        )


def _under(session: Session, table: _Table, kek_id: str) -> int:
    counted = select(func.count()).select_from(table).where(table.kek_id == kek_id)
    return session.scalar(counted) or 0


def _key(table: _Table) -> tuple[Any, Any]:
    name = table.key_id if table is KeyVersionRow else table.model
    return name, table.version


def _name(row: _Row) -> tuple[str, int]:
    name = row.key_id if isinstance(row, KeyVersionRow) else row.model
    return name, row.version

"""The key-encryption keys (KEKs) that this process has loaded.

Which one is in use, and where each one is, the database says: so a key that another
process put into use meanwhile is found by its URL. Plain keys are in memory only.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, NoReturn

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.database import Database
from core.errors import KeymixerError
from parties.key_holder.at_rest import (
    KEY_BYTES,
    Entropy,
    KeyEncryptionKey,
    erase,
)
from parties.key_holder.errors import CorruptRecordError, KekMismatchError
from parties.key_holder.providers import provider_at, shown
from parties.key_holder.tables import KeyEncryptionKeyRow

log = logging.getLogger(__name__)

_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a KEK could not be had, and when, on the monotonic clock."""

    kind: type[KeymixerError]
    message: str
    at_s: float

    def repeat(self) -> None:
        """Raise it again, unless it is long enough ago to try once more."""
        if time.monotonic() - self.at_s < _RETRY_S:
            raise self.kind(self.message)


class Keychain:
    """Loaded KEKs by id; loads an unknown one by its URL. Never printed or pickled."""

    def __init__(self, folder: Path, entropy: Entropy) -> None:
        self._folder = folder
        self._entropy = entropy
        self._loaded: dict[str, KeyEncryptionKey] = {}
        self._failed: dict[str, _Failure] = {}
        self._loading = Lock()

    def __repr__(self) -> str:
        return "Keychain()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keychain is neither pickled nor copied")

    def key(self, row: KeyEncryptionKeyRow) -> KeyEncryptionKey:
        """The KEK of that row, loaded at its first use.

        Raises:
            KekMismatchError: its URL gives another key by now.
            KeymixerError: it cannot be had; see `parties.key_holder.providers`.
        """
        if (loaded := self._loaded.get(row.id)) is not None:
            return loaded
        with self._loading:
            if row.id not in self._loaded:
                self._load_expecting(row.url, row.id)
            return self._loaded[row.id]

    def load(self, url: str, *, make: bool = False) -> KeyEncryptionKey:
        """The KEK at a URL, whichever it is; with `make`, a missing file is made."""
        with self._loading:
            kek = self._fetched(url, make=make)
            return self._loaded.setdefault(kek.id, kek)

    def in_use(self, session: Session) -> KeyEncryptionKey:
        """The KEK that new records are sealed under."""
        return self.key(row_in_use(session))

    def wrapping(self, session: Session, kek_id: str | None) -> KeyEncryptionKey:
        """The KEK that a record names."""
        row = session.get(KeyEncryptionKeyRow, kek_id) if kek_id else None
        if row is None:
            raise CorruptRecordError("a record names no key-encryption key")
        return self.key(row)

    def _load_expecting(self, url: str, kek_id: str) -> None:
        """A failure counts for a while: those who wait behind it are told at once."""
        if (failed := self._failed.get(kek_id)) is not None:
            failed.repeat()
        try:
            kek = self._fetched(url, make=False)
            if kek.id != kek_id:
                raise KekMismatchError(
                    f"{shown(url)} holds key {kek.id}, the records are under {kek_id}"
                )
        except KeymixerError as error:
            self._failed[kek_id] = _Failure(type(error), str(error), time.monotonic())
            raise
        self._loaded[kek_id] = kek

    def _fetched(self, url: str, *, make: bool) -> KeyEncryptionKey:
        provider = provider_at(url, self._folder)
        if make:
            provider.make(lambda: self._entropy(KEY_BYTES))
        secret = provider.fetch()
        try:
            return KeyEncryptionKey(secret)
        finally:
            erase(secret)


def ensure_in_use(
    database: Database, keychain: Keychain, url: str, now_ms: int
) -> None:
    """Load the KEK in use; in a new store, put the one at `url` into use.

    The database's word counts more than `url`, which is what settings.json says and may
    be older than the last rewrap. But when the key is no longer where the database says
    and is at `url`, it has moved there.
    """
    with database.reading() as session:
        row = find_in_use(session)
    if row is None:
        kek = keychain.load(url, make=True)
        with database.transaction() as session:
            if find_in_use(session) is None:
                put_in_use(session, kek, url, now_ms)
        return
    try:
        keychain.key(row)
    except KeymixerError:
        if not _is_at(keychain, row, url):
            raise
        _move(database, row.id, url)
        return
    if row.url != url:
        facts = {"in_use": shown(row.url), "settings": shown(url)}
        log.warning("settings.json names another key-encryption key", extra=facts)


def find_in_use(session: Session) -> KeyEncryptionKeyRow | None:
    """The row of the KEK in use; None in a new store."""
    return session.scalar(select(KeyEncryptionKeyRow).where(KeyEncryptionKeyRow.in_use))


def row_in_use(session: Session) -> KeyEncryptionKeyRow:
    """The row of the KEK in use."""
    row = find_in_use(session)
    if row is None:
        raise CorruptRecordError("no key-encryption key is in use")
    return row


def put_in_use(session: Session, kek: KeyEncryptionKey, url: str, now_ms: int) -> None:
    """Have new records sealed under `kek`; those there are stay as they are."""
    row = session.get(KeyEncryptionKeyRow, kek.id)
    if row is not None and row.in_use:
        row.url = url
        return
    session.execute(update(KeyEncryptionKeyRow).values(in_use=False))
    session.merge(KeyEncryptionKeyRow(id=kek.id, url=url, in_use=True, since_ms=now_ms))


def _is_at(keychain: Keychain, row: KeyEncryptionKeyRow, url: str) -> bool:
    """Whether another URL than its own gives the KEK of that row."""
    if row.url == url:
        return False
    with suppress(KeymixerError):
        return keychain.load(url).id == row.id
    return False


def _move(database: Database, kek_id: str, url: str) -> None:
    with database.transaction() as session:
        session.execute(
            update(KeyEncryptionKeyRow)
            .where(KeyEncryptionKeyRow.id == kek_id)
            .values(url=url)
        )
    log.info("the key-encryption key has moved", extra={"to": shown(url)})

"""The key-encryption keys (KEKs) that this process has loaded.

Which one is in use, and where each one is, a file in the key holder's folder says: so
a key that another process put into use meanwhile is found by its URL. The database only
names keys, and is not asked where they are. Plain keys are in memory only.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, NoReturn

from sqlalchemy.orm import Session

from core.database import Database
from core.errors import KeymixerError
from parties.key_holder.at_rest import (
    KEY_BYTES,
    Entropy,
    KeyEncryptionKey,
    erase,
)
from parties.key_holder.errors import KekMismatchError, KekUnlistedError
from parties.key_holder.keks import KekList, ListedKek
from parties.key_holder.providers import provider_at, shown
from parties.key_holder.rows import kek_ids

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

    def listed(self) -> KekList:
        """The list as it is now."""
        return KekList.read(self._folder)

    def key(self, listed: ListedKek) -> KeyEncryptionKey:
        """A KEK of the list, loaded at its first use.

        Raises:
            KekMismatchError: its URL gives another key by now.
            KeymixerError: it cannot be had; see `parties.key_holder.providers`.
        """
        if (loaded := self._loaded.get(listed.id)) is not None:
            return loaded
        with self._loading:
            if listed.id not in self._loaded:
                self._load_expecting(listed.url, listed.id)
            return self._loaded[listed.id]

    def load(self, url: str, *, make: bool = False) -> KeyEncryptionKey:
        """The KEK at a URL, whichever it is; with `make`, a missing file is made."""
        with self._loading:
            kek = self._fetched(url, make=make)
            return self._loaded.setdefault(kek.id, kek)

    def listed_in_use(self, session: Session) -> ListedKek:
        """The entry of the KEK in use. In a transaction that writes it stays so.

        Nobody changes the list but under the lock of such a transaction: it is taken
        before the list is read.
        """
        session.connection()
        if (listed := self.listed().used()) is None:
            raise KekUnlistedError("no key-encryption key is in use")
        return listed

    def in_use(self, session: Session) -> KeyEncryptionKey:
        """The KEK that new records are sealed under."""
        return self.key(self.listed_in_use(session))

    def wrapping(self, kek_id: str | None) -> KeyEncryptionKey:
        """The KEK that a record names.

        Raises:
            KekUnlistedError: the list has no such key; nothing is looked for.
        """
        if (loaded := self._loaded.get(kek_id or "")) is not None:
            return loaded
        if (listed := self.listed().keks.get(kek_id or "")) is None:
            raise KekUnlistedError("a record names no key-encryption key of the list")
        return self.key(listed)

    def put_in_use(
        self, session: Session, kek: KeyEncryptionKey, url: str, now_ms: int
    ) -> None:
        """Have new records sealed under `kek`; those there are stay as they are.

        The list is replaced at once, under the lock of the session's transaction.
        """
        session.connection()
        listed = self.listed()
        used = listed.used()
        since_ms = used.since_ms if used and used.id == kek.id else now_ms
        listed.using(ListedKek(kek.id, url, since_ms)).write(self._folder)

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

    The list's word counts more than `url`, which is what settings.json says and may be
    older than the last rewrap. But when the key is no longer where the list says and is
    at `url`, it has moved there.
    """
    listed = keychain.listed().used()
    if listed is None:
        _put_first_in_use(database, keychain, url, now_ms)
        return
    try:
        keychain.key(listed)
    except KeymixerError:
        if not _is_at(keychain, listed, url):
            raise
        _move(database, keychain, listed, url)
        return
    if listed.url != url:
        facts = {"in_use": shown(listed.url), "settings": shown(url)}
        log.warning("settings.json names another key-encryption key", extra=facts)


def _put_first_in_use(
    database: Database, keychain: Keychain, url: str, now_ms: int
) -> None:
    """Where there are records the list was lost: then only a key of theirs will do."""
    with database.reading() as session:
        under = kek_ids(session)
    kek = keychain.load(url, make=not under)
    if under and kek.id not in under:
        raise KekMismatchError(
            f"keks.json is missing, and no record is under the key at {shown(url)}"
        )
    with database.transaction() as session:
        session.connection()
        if keychain.listed().used() is None:
            keychain.put_in_use(session, kek, url, now_ms)


def _is_at(keychain: Keychain, listed: ListedKek, url: str) -> bool:
    """Whether another URL than its own gives that KEK."""
    if listed.url == url:
        return False
    with suppress(KeymixerError):
        return keychain.load(url).id == listed.id
    return False


def _move(database: Database, keychain: Keychain, listed: ListedKek, url: str) -> None:
    with database.transaction() as session:
        if keychain.listed_in_use(session) == listed:
            kek = keychain.in_use(session)
            keychain.put_in_use(session, kek, url, listed.since_ms)
    log.info("the key-encryption key has moved", extra={"to": shown(url)})

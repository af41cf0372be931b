"""Open the key holder's store, as its folder and settings say."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.database import WAIT_S, Database, open_database
from parties.key_holder.at_rest import Entropy
from parties.key_holder.keychain import Keychain, ensure_in_use
from parties.key_holder.vault import Clock, Vault, now_ms

MIGRATIONS: Final = Path(__file__).with_name("migrations")


@dataclass(frozen=True, slots=True)
class Store:
    """The key holder's database, and the keys that open what it holds."""

    database: Database
    keychain: Keychain
    entropy: Entropy
    clock: Clock

    def unlocked(self, kek_url: str) -> Vault:
        """The vault, its key-encryption key loaded; a new store takes that at the URL.

        Raises:
            ConfigurationError: the key cannot be had, or is another one.
        """
        ensure_in_use(self.database, self.keychain, kek_url, self.clock())
        return Vault(self.database, self.keychain, self.entropy, self.clock)


@contextmanager
def open_store(
    folder: Path,
    url: str,
    *,
    entropy: Entropy = os.urandom,
    clock: Clock = now_ms,
    wait_s: float = WAIT_S,
) -> Iterator[Store]:
    """Open the database at an SQLAlchemy URL; key files are relative to `folder`."""
    with open_database(url, MIGRATIONS, wait_s=wait_s) as database:
        yield Store(database, Keychain(folder, entropy), entropy, clock)

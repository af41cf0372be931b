"""Rewrap a folder, and be killed before or after a commit, or the list's replacement.

    python -m tests.unit.parties.killed_rewrap FOLDER URL MOMENT NUMBER

MOMENT is `before` or `after` (a commit), `before-list` or `after-list`.

Without such a commit it ends by itself, with exit code 0.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from core.database import Database
from parties.key_holder.opening import open_store
from parties.key_holder.rewrap import rewrap


class Mortal:
    """Stands in for `Database.transaction`, and dies at one of its commits."""

    def __init__(self, moment: str, number: int) -> None:
        self._moment = moment
        self._left = number
        self._transaction = Database.transaction
        self._replace = Path.replace

    @contextmanager
    def transaction(self, database: Database) -> Iterator[Session]:
        with self._transaction(database) as session:
            yield session
            session.flush()
            self._left -= self._moment in {"before", "after"}
            self._die("before")
        self._die("after")

    def replace(self, draft: Path, target: Path) -> Path:
        self._die("before-list")
        replaced = self._replace(draft, target)
        self._die("after-list")
        return replaced

    def _die(self, moment: str) -> None:
        listing = self._moment.endswith("-list")
        if self._left == int(listing) and moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, url: str, moment: str, number: str) -> None:
    mortal = Mortal(moment, int(number))

    def transaction(database: Database) -> AbstractContextManager[Session]:
        return mortal.transaction(database)

    Database.transaction = transaction  # type: ignore[method-assign, assignment] # to die

    def replace(draft: Path, target: Path) -> Path:
        return mortal.replace(draft, target)

    Path.replace = replace  # type: ignore[method-assign, assignment] # to die
    with open_store(Path(folder), f"sqlite:///{folder}/key-holder.db") as found:
        rewrap(
            found.database,
            found.keychain,
            url,
            entropy=os.urandom,
            now_ms=found.clock(),
            batch=2,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

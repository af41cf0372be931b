"""The points of a process: just before and just after all that others can see of it.

A commit, a call that changes something at a peer, a file that gets or loses its name:
each has a label that says what it does, and is the same in every run. A watched process
writes down every point it passes, and kills itself at those it is told to, once each.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Points are only counted, and nobody dies, before this file exists.
ARMED: Final = "armed"
EVERY_POINT: Final = "*"
# Records that tell of a process that starts, and of calls that came too early or to
# one who was away, which are made again.
_NOT_OF_A_WORKFLOW: Final = (
    *("key_holder.started", "policy.in_force", "refused", "server.started"),
)


@dataclass(frozen=True)
class Ledger:
    """What one process has passed and died at, over all its lives; on disk."""

    folder: Path
    process: str

    def passed(self) -> list[str]:
        """Every point, in order."""
        return _lines(self._path("passed"))

    def died(self) -> list[str]:
        """The points of every death, in order."""
        return _lines(self._path("died"))

    def armed(self) -> bool:
        """Has the workflow that is watched begun?"""
        return (self.folder / ARMED).exists()

    def write(self, what: str, points: Iterable[str]) -> None:
        """Append in one write, which a death cannot cut."""
        with self._path(what).open("a") as file:
            file.write("".join(f"{point}\n" for point in points))

    def _path(self, what: str) -> Path:
        return self.folder / f"{self.process}.{what}"


@dataclass
class Watch:
    """Notes the points of this process, and kills it at those in `doomed`."""

    ledger: Ledger
    doomed: frozenset[str]
    _one: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def around(self, labels: Iterable[str]) -> Iterator[None]:
        """Pass the points before and after what the block does; not, if it fails."""
        named = list(labels)
        self.passes("before", named)
        yield
        self.passes("after", named)

    def passes(self, when: str, labels: Iterable[str]) -> None:
        """Note the points; die if one of them is doomed and did not kill us yet."""
        points = [f"{when} {label}" for label in labels]
        with self._one:
            if not points or not self.ledger.armed():
                return
            self.ledger.write("passed", points)
            spent = set(self.ledger.died())
            if any(self._dooms(point) and point not in spent for point in points):
                self.ledger.write("died", points)
                os.kill(os.getpid(), signal.SIGKILL)

    def _dooms(self, point: str) -> bool:
        return EVERY_POINT in self.doomed or point in self.doomed


def is_of_a_workflow(kind: str) -> bool:
    """Is a record of this kind made in every run, whoever dies?"""
    return kind not in _NOT_OF_A_WORKFLOW


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []

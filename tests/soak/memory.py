"""How much memory processes hold, looked at every second."""

import math
import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_EVERY_S: Final = 1.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Of the time under load: by the first the server is warm, then two spans are compared.
_EARLY: Final = (0.25, 0.40)
_LATE: Final = (0.85, 1.0)


@dataclass(frozen=True, slots=True)
class Look:
    """What each process held, in MiB, and its threads, so long after the beginning."""

    at_s: float
    loaded: bool
    resident: Mapping[str, float]
    threads: Mapping[str, int]


@dataclass(slots=True)
class Memory:
    """Looks at processes, by name."""

    pids: Mapping[str, int]
    looks: list[Look] = field(default_factory=list)
    rests: list[Look] = field(default_factory=list)
    _resting: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every second, until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nobody asks while the block runs; at its end is looked for what is kept."""
        self._resting = True
        yield
        self.rests.append(self._look(self.looks[-1].at_s))
        self._resting = False

    def figures(self) -> dict[str, dict[str, Any]]:
        """Of each process, in MiB: under load, and at rest, late over early."""
        return {name: self._of(name) for name in self.pids}

    def _of(self, name: str) -> dict[str, Any]:
        early, late = self._median(name, _EARLY), self._median(name, _LATE)
        most = max(each.resident[name] for each in self.looks)
        rests = [each.resident[name] for each in self.rests]
        return {
            "early_mib": round(early, 1),
            "late_mib": round(late, 1),
            "most_mib": round(most, 1),
            "every_ten_s": [round(each.resident[name]) for each in self.looks[::10]],
            "at_rest_mib": [round(each, 1) for each in rests],
            "at_rest_threads": [each.threads[name] for each in self.rests],
            "late_over_early": round(rests[-1] / rests[0], 4),
        }

    def _median(self, name: str, span: Sequence[float]) -> float:
        loaded = [each.resident[name] for each in self.looks if each.loaded]
        since, until = (math.floor(part * len(loaded)) for part in span)
        return statistics.median(loaded[since : max(until, since + 1)])

    def _watch(self, over: threading.Event) -> None:
        began_s = time.monotonic()
        while not over.wait(_EVERY_S):
            self.looks.append(self._look(time.monotonic() - began_s))

    def _look(self, at_s: float) -> Look:
        return Look(
            at_s,
            not self._resting,
            {name: resident_mib(pid) for name, pid in self.pids.items()},
            {name: threads_of(pid) for name, pid in self.pids.items()},
        )


def resident_mib(pid: int) -> float:
    """The memory that a process has in the machine's own."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE / 2**20


def threads_of(pid: int) -> int:
    """How many threads a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())

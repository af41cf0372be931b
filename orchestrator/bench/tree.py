"""Processes with all that they started: what they use of the processors, their end."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from orchestrator.bench.namespaces import inhabitants, is_alone, network
from orchestrator.simulation.processes import start_time

_PROC: Final = Path("/proc")
_KILLED_S: Final = 10.0
# Behind the command's name in /proc/<pid>/stat: the parent; user and system time, both
# also of the children that have ended and were waited for.
_PARENT: Final = 1
_TIMES: Final = slice(11, 15)


class Tree:
    """Processes and their descendants, those too whose parent has ended since.

    Whoever was once seen below a root belongs to it: some servers start their workers
    in groups and sessions of their own. If a root has a network namespace to itself,
    `kill` ends all that are there.
    """

    def __init__(self, *roots: int) -> None:
        # Their start times too: a pid alone may be reused.
        self._seen = {root: start_time(root) for root in roots}
        self._roots = roots
        # Namespaces that nobody else is in.
        self._homes: set[str] = set()

    def pids(self) -> tuple[int, ...]:
        """The processes that run now."""
        self._look()
        return tuple(
            pid for pid, since in self._seen.items() if start_time(pid) == since
        )

    def cpu_seconds(self) -> float:
        """Processor time of all of them together; 0 where /proc does not tell."""
        return sum(map(_cpu_seconds, self.pids()))

    def kill(self) -> None:
        """End whatever still runs, and wait until nothing does."""
        deadline = time.monotonic() + _KILLED_S
        while (
            left := {*self.pids(), *self._inhabitants()}
        ) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _inhabitants(self) -> Iterator[int]:
        return chain.from_iterable(map(inhabitants, self._homes))

    def _look(self) -> None:
        self._homes |= {network(root) for root in self._roots if is_alone(root)}
        found = dict(_parents())
        before = 0
        while before != len(self._seen):
            before = len(self._seen)
            for pid, parent in found.items():
                if parent in self._seen and pid not in self._seen:
                    self._seen[pid] = start_time(pid)


def _parents() -> Iterator[tuple[int, int]]:
    """All processes of this machine, with their parents."""
    for folder in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            yield int(folder.name), int(_fields(int(folder.name))[_PARENT])


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        return sum(map(int, _fields(pid)[_TIMES])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _fields(pid: int) -> list[str]:
    # The command in parentheses may hold anything: split behind its last one.
    stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    return stat.rpartition(")")[2].split()

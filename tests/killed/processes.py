"""Servers that are started again as soon as they are killed."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from signal import SIGKILL
from typing import Final, Self

from tests.killed.launcher import Program, run

PRELOADED: Final = "tests.killed.preloaded"
LOOK_EVERY_S: Final = 0.1
# Far more than any workflow has points: who dies so often dies of something else.
MOST_DEATHS: Final = 500
# Processes know of each other in `multiprocessing`: one thread at a time asks for them.
_ONE_AT_A_TIME: Final = threading.Lock()


@dataclass
class Servers:
    """One process for each program, forked from a process that has loaded them all.

    `on_death` is told which server was killed, while no process of it runs.
    """

    programs: Mapping[str, Program]
    on_death: Callable[[str], None]
    deaths: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    _running: dict[str, ForkServerProcess] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        for server, program in self.programs.items():
            self._running[server] = _start(program)
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            wait([process.sentinel])
            _exit_code(process)

    def check(self) -> None:
        """Raise if a server ended of itself."""
        if self.failure:
            raise AssertionError(self.failure)

    def _look_after(self) -> None:
        while not self._stop.is_set() and not self.failure:
            servers: dict[object, str] = {
                each.sentinel: server for server, each in self._running.items()
            }
            ends = [each.sentinel for each in self._running.values()]
            for end in wait(ends, LOOK_EVERY_S):
                self._revive(servers[end])

    def _revive(self, server: str) -> None:
        code = _exit_code(self._running[server])
        self.deaths[server] += 1
        if code != -SIGKILL or self.deaths[server] > MOST_DEATHS:
            log = self.programs[server].folder / "output.log"
            self.failure = f"{server} ended with {code}, see {log}"
            return
        self.on_death(server)
        self._running[server] = _start(self.programs[server])


def _start(program: Program) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    with _ONE_AT_A_TIME:
        context.set_forkserver_preload([PRELOADED])
        process = context.Process(target=run, args=(program,), daemon=True)
        process.start()
        return process


def _exit_code(process: ForkServerProcess) -> int | None:
    with _ONE_AT_A_TIME:
        return process.exitcode

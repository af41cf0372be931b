"""Runs a party's own program in a process that is watched, and killed, by points.

Nothing of this is in the programs: commits are SQLAlchemy's events, calls are seen by
an interceptor of gRPC's, and files by functions put in the place of those of `os`.
"""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, ORCHESTRATOR
from tests.killed import commits
from tests.killed.commits import Commits
from tests.killed.effects import Calls, Files
from tests.killed.points import Ledger, Watch

MODULES: Final = {
    ORCHESTRATOR: "orchestrator.__main__",
    KEY_HOLDER: "parties.key_holder.__main__",
    INFERENCE_SERVER: "parties.inference_server.__main__",
}
_QUERIES: Final[Mapping[str, Mapping[str, str]]] = {
    ORCHESTRATOR: commits.ORCHESTRATOR,
    KEY_HOLDER: commits.KEY_HOLDER,
}


@dataclass(frozen=True)
class Program:
    """One party's process: who it is, where its folder is, and where it dies."""

    role: str
    folder: Path
    ledger: Ledger
    doomed: frozenset[str] = frozenset()
    # A file with milliseconds that this process's clock is ahead.
    ahead: Path | None = None


def run(program: Program) -> None:
    """Be that program; called in a process of its own."""
    _write_output_to(program.folder / "output.log")
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    _set_clock_ahead(program.ahead)
    watch = Watch(program.ledger, program.doomed)
    queries = _QUERIES.get(program.role, {})
    Commits(watch, queries, with_log=program.role == ORCHESTRATOR).listen()
    Calls(watch).listen()
    Files(watch, program.folder).listen()
    sys.exit(_main(MODULES[program.role], ["--folder", str(program.folder)]))


def _main(module: str, arguments: Sequence[str]) -> int:
    sys.argv = [module, *arguments]
    code: int = import_module(module).main()
    return code


def _end_with_the_tests() -> None:
    """However they end: whoever kills them leaves no server behind."""
    tests = multiprocessing.parent_process()
    if tests is not None:
        tests.join()
        os._exit(1)


def _write_output_to(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())


def _set_clock_ahead(path: Path | None) -> None:
    """Let this process believe that it is later, by as much as the file says."""
    if path is None:
        return
    real = time.time_ns

    def time_ns() -> int:
        return real() + int(path.read_text()) * 1_000_000

    time.time_ns = time_ns

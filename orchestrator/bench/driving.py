"""Put a load on a running server, and read what the server used meanwhile."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from core.errors import KeymixerError
from orchestrator.bench.load import Figures, Load
from orchestrator.bench.peers import ALLOCATOR, THREADS
from orchestrator.bench.tree import Tree

# Beyond what a measurement takes: an interpreter with torch starts, and ends.
_SLACK_S: Final = 60.0


class LoadFailed(KeymixerError):
    """The process that makes requests, or that forwards, ended with an error."""

    hint = "see what it printed above"


class WrongAnswers(KeymixerError):
    """A server that is measured refuses, or answers otherwise than the plain model."""

    hint = "figures of such a server mean nothing: see its log with --keep FOLDER"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement; processor time is that of the server's whole tree."""

    images_per_s: float
    # 0 where the system does not tell.
    images_per_cpu_s: float
    p50_ms: float
    p99_ms: float
    # With the processor time of those that the server itself asks, such as its log.
    images_per_cpu_s_in_all: float = 0.0


class Asked(Protocol):
    """A server, in as many processes as it has."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    @property
    def tree(self) -> Tree:
        """All its processes."""

    @property
    def entry(self) -> tuple[str, ...]:
        """What a command begins with that shall reach it; empty: everybody here can."""


def drive(asked: Asked, load: Load, beside: Tree | None = None) -> Measured:
    """Have a process of its own make the requests.

    Args:
        asked: The server.
        load: What is asked of it; its ways lead there.
        beside: What works for the server in another process.

    Raises:
        LoadFailed: that process ended with an error.
        WrongAnswers: there were errors, wrong answers, or no answers.
    """
    with _process("orchestrator.bench.load", load.to_json(), asked.entry) as child:
        _line(child)
        before, others = asked.tree.cpu_seconds(), _seconds(beside)
        figures = Figures(**_line(child))
        used, others = asked.tree.cpu_seconds() - before, _seconds(beside) - others
        child.wait(_SLACK_S)
    _require_right(asked.name, figures)
    return Measured(
        images_per_s=figures.images_per_s,
        images_per_cpu_s=figures.images / used if used else 0.0,
        p50_ms=figures.p50_ms,
        p99_ms=figures.p99_ms,
        images_per_cpu_s_in_all=figures.images / (used + others) if used else 0.0,
    )


def forward_bare(release: Path, images: int, seconds: float) -> Measured:
    """Forward batches of so many images in torch, with the threads that a peer has.

    Raises:
        LoadFailed: the process ended with an error.
    """
    task = {
        "release": str(release),
        "images": images,
        "seconds": seconds,
        "threads": THREADS,
    }
    with _process("orchestrator.bench.bare", json.dumps(task)) as child:
        measured = Measured(**_line(child))
        child.wait(_SLACK_S)
    return measured


def _seconds(tree: Tree | None) -> float:
    return tree.cpu_seconds() if tree else 0.0


def _process(
    module: str, given: str, entry: Sequence[str] = ()
) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [*entry, sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(THREADS)},
    )
    assert child.stdin is not None  # noqa: S101 - it was asked for
    child.stdin.write(given)
    child.stdin.close()
    return child


def _line(child: subprocess.Popen[str]) -> dict[str, Any]:
    line = child.stdout.readline() if child.stdout else ""
    if not line:
        raise LoadFailed(f"{child.args!r} ended with {child.wait(_SLACK_S)}")
    entries: dict[str, Any] = json.loads(line)
    return entries


def _require_right(name: str, figures: Figures) -> None:
    if figures.errors or figures.wrong or not figures.images:
        raise WrongAnswers(
            f"{name}: {figures.images} images answered, {figures.wrong} of them wrong, "
            f"{figures.errors} errors: {figures.told or 'nothing was said'}"
        )

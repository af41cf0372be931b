"""One load on one server: what the callers saw, and what the server took for it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import KeymixerError
from orchestrator.bench.load import Figures, Load
from orchestrator.bench.tree import Tree


class LoadFailed(KeymixerError):
    """The process that asks ended with an error."""

    hint = "see what it printed"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen, and the processor seconds of whoever served it meanwhile."""

    figures: Figures
    cpu_s: Mapping[str, float] = field(default_factory=dict)


def put(load: Load, trees: Mapping[str, Tree]) -> Measured:
    """Put a load on a server from a process of its own, until it ends.

    Raises:
        LoadFailed: that process failed, or hardly anything was answered.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise LoadFailed("no pipe to it")
        child.stdin.write(load.to_json())
        child.stdin.close()
        child.stdout.readline()
        before = _used(trees)
        last = child.stdout.readline()
        after = _used(trees)
    if child.returncode or not last:
        raise LoadFailed(f"it ended with {child.returncode}")
    figures = Figures(**json.loads(last))
    if figures.images == 0:
        raise LoadFailed(f"nothing was answered: {figures.told}")
    return Measured(figures, {name: after[name] - before[name] for name in trees})


def _used(trees: Mapping[str, Tree]) -> dict[str, float]:
    return {name: tree.cpu_seconds() for name, tree in trees.items()}

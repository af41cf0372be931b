"""What each party of a running federation has used of the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from core.rpc.identity import KEY_HOLDER, ORCHESTRATOR
from orchestrator.bench import machine
from orchestrator.simulation.setup import Stage
from orchestrator.simulation.workspace import SERVERS

DATABASES: Final = {ORCHESTRATOR: "registry.db", KEY_HOLDER: "key-holder.db"}

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Usage:
    """By role; None is what this machine does not tell."""

    cpu_seconds: Mapping[str, float | None]
    commits: Mapping[str, int | None]

    def since(self, earlier: "Usage") -> "Usage":
        """What was used between two looks."""
        return Usage(
            _differences(earlier.cpu_seconds, self.cpu_seconds),
            _differences(earlier.commits, self.commits),
        )


def used(stage: Stage) -> Usage:
    """What the servers have used up to now."""
    pids = {p.role: p.pid for p in stage.running.seen if p.role in SERVERS}
    return Usage(
        cpu_seconds={role: machine.cpu_seconds(pid) for role, pid in pids.items()},
        commits={
            role: machine.commits(stage.workspace.server_folder(role) / name)
            for role, name in DATABASES.items()
        },
    )


def database_megabytes(stage: Stage) -> dict[str, float]:
    """The databases' sizes, once the servers have stopped and left one file each."""
    folder = stage.workspace.server_folder
    return {
        role: round((folder(role) / name).stat().st_size / 1e6, 2)
        for role, name in DATABASES.items()
    }


def _differences(
    earlier: Mapping[str, _Number | None], later: Mapping[str, _Number | None]
) -> dict[str, _Number | None]:
    found: dict[str, _Number | None] = {}
    for role, now in later.items():
        then = earlier.get(role)
        found[role] = None if now is None or then is None else now - then
    return found

"""A federation that stays: `keymixer up`, `status` and `down`."""

from pathlib import Path
from typing import Any

from rich.console import Console

from core.errors import ConfigurationError, KeymixerError
from core.rpc.channel import wait_ready
from core.rpc.health import NotServingError
from core.rpc.identity import load_identity
from orchestrator.simulation import processes
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Process
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import HEALTH_SERVICES, bring_up, start_servers
from orchestrator.simulation.workspace import (
    Workspace,
    create_workspace,
    open_workspace,
    point_latest,
    reopen_workspace,
)


def start_run(
    scenario: Path,
    runs: Path,
    *,
    console: Console,
    data: str | None = None,
    retrain: bool = False,
) -> Path:
    """Bring a new federation up, issue its keys, and leave its servers running."""
    _warn_of_another(runs, console)
    workspace = create_workspace(runs, scenario)
    spec = data or workspace.federation.simulation.data
    with running(workspace, Narrator(console), spec) as stage:
        bring_up(stage, retrain=retrain)
        _leave(workspace, stage.running)
    return workspace.root


def resume_run(root: Path, *, console: Console) -> Path:
    """Start the servers of a stopped run again: same keys, same log.

    Raises:
        ConfigurationError: there is no run in `root`, or it still runs.
    """
    if any(map(processes.is_running, _started(root))):
        raise ConfigurationError(f"{root} still runs: stop it with `keymixer down`")
    workspace = reopen_workspace(root)
    spec = workspace.federation.simulation.data
    with running(workspace, Narrator(console), spec) as stage:
        start_servers(stage)
        _leave(workspace, stage.running)
    return workspace.root


def stop_run(root: Path) -> list[Process]:
    """End every process of a run; returns those that were running.

    Raises:
        ConfigurationError: there is no run in `root`.
    """
    return processes.end(_started(root))


def server_states(root: Path) -> list[dict[str, Any]]:
    """Each server: `serving`, `not serving` (and why) or `stopped`; address and pid."""
    workspace = open_workspace(root)
    pids = {p.name: p.pid for p in _started(root) if processes.is_running(p)}
    return [
        {
            "role": name,
            "state": _state(workspace, name) if name in pids else "stopped",
            "address": workspace.address(name),
            "pid": pids.get(name, ""),
        }
        for name in workspace.servers
    ]


def _warn_of_another(runs: Path, console: Console) -> None:
    """`runs/latest` will point to the new run: say how the other is stopped."""
    latest = runs / "latest"
    if latest.exists() and any(map(processes.is_running, _started(latest))):
        stop = f"keymixer down --run {latest.resolve()}"
        console.print(
            f"Another federation runs: `{stop}` stops it.",
            highlight=False,
            soft_wrap=True,
        )


def _leave(workspace: Workspace, started: processes.Processes) -> None:
    point_latest(workspace)
    started.release()


def _started(root: Path) -> list[Process]:
    return processes.load(open_workspace(root).root / "processes.json")


def _state(workspace: Workspace, server: str) -> str:
    role = workspace.servers[server]
    identity = load_identity(workspace.operator_folder())
    party = workspace.federation.only(role)
    address = workspace.address(server)
    try:
        wait_ready(address, identity, party, HEALTH_SERVICES[role], timeout_s=1.0)
    except KeymixerError as error:
        said = error.__cause__
        why = said.why if isinstance(said, NotServingError) else ""
        return f"not serving: {why}" if why else "not serving"
    return "serving"

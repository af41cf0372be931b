"""`keymixer simulate`: a whole federation on one machine, up to the report."""

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from core.rpc.identity import OPERATOR
from core.wire import write_atomically
from orchestrator.simulation.asking import ask
from orchestrator.simulation.checks import (
    compare,
    judge,
    note_leakage,
    verify_audit,
)
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import PYTHON, processes
from orchestrator.simulation.report.content import build_report
from orchestrator.simulation.report.page import write_page
from orchestrator.simulation.rotation_figures import require_unbroken
from orchestrator.simulation.setup import Stage, bring_up
from orchestrator.simulation.timeline import play
from orchestrator.simulation.trial_figures import require_tried
from orchestrator.simulation.workspace import (
    Workspace,
    create_workspace,
    point_latest,
)


def simulate(
    scenario: Path,
    runs: Path,
    *,
    console: Console,
    data: str | None = None,
    retrain: bool = False,
) -> Path:
    """Run a scenario to its end and return the run's folder with its report.

    Raises:
        RotationBroken, TrialBroken: it ran to its end, but its report has a figure of
            `rotation` or `canary` that never may be.
        KeymixerError: a part of it failed; every process was stopped, and the message
            says where the logs are.
    """
    workspace = create_workspace(runs, scenario)
    narrator = Narrator(console)
    spec = data or workspace.federation.simulation.data
    with running(workspace, narrator, spec) as stage:
        later = workspace.federation.simulation.releases
        bring_up(stage, retrain=retrain, later=later)
        with narrator.phase("inference", "Owners encrypt and ask"):
            ask(stage)
        with narrator.phase("events", "Rotation, revocation, refusals"):
            play(stage)
        with narrator.phase("compare", "Compared with the plain model"):
            compare(stage)
            judge(stage)
        with narrator.phase("audit", "The audit log, verified"):
            verify_audit(stage)
            note_leakage(stage)
        with narrator.phase("stop", "The federation stops"):
            stage.running.stop()
            operator = workspace.federation.first(OPERATOR)
            narrator.says(OPERATOR, operator.organisation, "has stopped every party")
    write_report(stage)
    point_latest(workspace)
    require_unbroken(stage.reports.get("rotation", {}))
    require_tried(stage.reports.get("canary", {}))
    return workspace.root


@contextlib.contextmanager
def running(
    workspace: Workspace,
    narrator: Narrator,
    spec: str,
    launcher: Sequence[str] = PYTHON,
) -> Iterator[Stage]:
    """A stage whose processes all end, whatever happens on it."""
    record = workspace.root / "processes.json"
    try:
        with (
            terminate_like_interrupt(),
            processes(workspace.logs, record, launcher) as group,
        ):
            yield Stage(workspace, group, narrator, spec)
    except BaseException:
        _say_where_the_logs_are(workspace, narrator)
        raise


def _say_where_the_logs_are(workspace: Workspace, narrator: Narrator) -> None:
    """Say it, or leave nothing behind if nothing was started."""
    if not any(workspace.logs.iterdir()):
        shutil.rmtree(workspace.root)
        return
    narrator.console.print(
        f"\nEvery process was stopped. The logs are in {workspace.logs}",
        highlight=False,
        soft_wrap=True,
    )


@contextlib.contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, stop the federation as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_report(stage: Stage) -> None:
    """Write `report.json` and the page a person opens."""
    report = build_report(stage)
    path = stage.workspace.root / "report.json"
    write_atomically(path, json.dumps(report, indent=2).encode(), mode=0o644)
    write_page(stage.workspace, report)

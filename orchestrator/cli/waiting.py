"""Wait while key versions come to life, and show how far each owner's is.

What only somebody else can move on, such as an owner that does not fetch its key, is
shown as waiting and holds nobody up: the jobs go on whether anybody watches or not.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.console import INTERRUPTED
from core.errors import Conflict
from orchestrator.cli.outlook import BEFORE_LIVE, organisation, progress
from orchestrator.cli.session import Session
from protos.workflows_pb2 import Job

POLL_S: Final = 0.5
# What fits on a screen; the others are counted.
_ROWS: Final = 20
_MARKS: Final = {
    "live": "[green]live[/green]",
    "stuck": "[bold red]stuck[/bold red]",
    "waiting": "[yellow]waiting[/yellow]",
    "under way": "[cyan]under way[/cyan]",
}
Jobs = Callable[[Sequence[int]], Sequence[Job]]
# How they stand -> the jobs that do.
Standing = Mapping[str, list[Job]]


class JobsStuck(Conflict):
    """Some of the jobs cannot go on by themselves."""

    hint = "keymixer jobs list"


@dataclass
class Watch:
    """Follows the jobs that bring key versions to life, until none is under way.

    A job counts as waiting once it has waited for an event, such as its owner's coming,
    for `patience_s`.
    """

    jobs: Jobs
    patience_s: float
    clock: Callable[[], float] = time.monotonic
    _waiting_since: dict[int, float] = field(default_factory=dict)

    def follow(self, ids: Sequence[int]) -> Iterator[Standing]:
        """Yield the jobs by how they stand, again and again, until none is under way.

        How they stand: `live`, `stuck` (needs an operator, or given up), `waiting` (for
        an event) or `under way`.
        """
        while True:
            standing: dict[str, list[Job]] = {each: [] for each in _MARKS}
            for job in self.jobs(ids):
                standing[self._stands(job)].append(job)
            yield standing
            if not standing["under way"]:
                return

    def _stands(self, job: Job) -> str:
        if job.state in ("needs_operator", "aborted"):
            return "stuck"
        if job.state == "done" or job.step not in BEFORE_LIVE:
            return "live"
        return "waiting" if self._waits(job) else "under way"

    def _waits(self, job: Job) -> bool:
        if job.state != "waiting" or job.next_at_ms:
            self._waiting_since.pop(job.id, None)
            return False
        since = self._waiting_since.setdefault(job.id, self.clock())
        return self.clock() - since >= self.patience_s


def until_live(session: Session, ids: Sequence[int], patience_s: float) -> Standing:
    """Show the jobs' progress until nobody present is left; returns how they stand."""
    console = Console(stderr=True)
    standing: Standing = {}
    try:
        with Live(console=console, auto_refresh=False) as live:
            for standing in Watch(session.operator.jobs_by_id, patience_s).follow(ids):
                live.update(table(standing), refresh=True)
                if standing["under way"]:
                    time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print("The jobs go on by themselves: keymixer jobs list")
        raise typer.Exit(INTERRUPTED) from None
    return standing


def fields(standing: Standing) -> list[dict[str, Any]]:
    """Each job's progress, as fields for JSON."""
    return [
        {
            "job_id": job.id,
            "owner": job.owner,
            "key_id": job.key_id,
            "standing": stands,
            "step": job.step,
            "state": job.state,
            "why": job.why,
        }
        for stands, jobs in standing.items()
        for job in jobs
    ]


def table(standing: Standing) -> Table:
    """How far each owner's key is: those first that need somebody's attention."""
    shown = Table.grid(padding=(0, 2))
    ordered = [
        (stands, job)
        for stands in ("stuck", "waiting", "under way", "live")
        for job in standing[stands]
    ]
    for stands, job in ordered[:_ROWS]:
        shown.add_row(organisation(job.owner), _MARKS[stands], Text(_told(stands, job)))
    if len(ordered) > _ROWS:
        counts = (f"{len(jobs):,} {each}" for each, jobs in standing.items() if jobs)
        shown.add_row("all", "", ", ".join(counts))
    return shown


def in_words(standing: Standing) -> str:
    """How many stand how, and what that means for the others."""
    told = [f"{len(standing['live']):,} live"]
    if waiting := len(standing["waiting"]):
        told.append(f"{waiting:,} waiting, whose present versions are served")
    if stuck := len(standing["stuck"]):
        told.append(f"{stuck:,} stuck")
    return ", ".join(told)


def require_none_stuck(standing: Standing) -> None:
    """Raise if a job cannot go on by itself.

    Raises:
        JobsStuck: one needs an operator, or was given up.
    """
    if stuck := [str(job.id) for job in standing["stuck"]]:
        raise JobsStuck(f"not done: job {', '.join(stuck[:_ROWS])}")


def _told(stands: str, job: Job) -> str:
    if stands == "stuck":
        return f"{job.why or job.state}: keymixer jobs show {job.id}"
    return "the new version answers" if stands == "live" else progress(job)

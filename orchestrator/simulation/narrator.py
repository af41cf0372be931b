"""Tell a person what each party is doing, and keep the same story for the report."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from orchestrator.simulation.sentences import sentence

_COLOURS = {
    "orchestrator": "cyan",
    "operator": "bright_cyan",
    "key-holder": "magenta",
    "inference-server": "yellow",
    "model-provider": "blue",
    "training-site": "bright_blue",
    "data-owner": "green",
    "outsider": "red",
}


@dataclass(frozen=True)
class Happening:
    """One line of the story: seconds since the start, who, and what."""

    at_s: float
    role: str
    party: str
    text: str


@dataclass
class Narrator:
    """Prints the story as it happens and remembers it."""

    console: Console
    started: float = field(default_factory=time.monotonic)
    # The same moment by the clock of the audit log.
    epoch_s: float = field(default_factory=time.time)
    story: list[Happening] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @contextlib.contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        """A part of the run: a title, and the seconds it took."""
        began = self.now()
        self.console.print(f"\n[bold]{escape(title)}[/bold]")
        yield
        self.seconds[name] = round(self.now() - began, 3)

    def says(self, role: str, party: str, text: str) -> None:
        """Print and remember what a party did just now."""
        self._tell(self.now(), role, party, text)

    def _tell(self, at_s: float, role: str, party: str, text: str) -> None:
        self.story.append(Happening(round(at_s, 3), role, party, text))
        colour = _COLOURS.get(role, "white")
        who = f"{party} ({role})"
        self.console.print(
            f"  [dim]{at_s:6.1f} s[/dim]  [{colour}]{who:<33}[/{colour}] "
            f"{escape(text)}",
            highlight=False,
            soft_wrap=True,
        )

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[Callable[..., None]]:
        """A progress bar: call with `done`, `total` and, if any, a `note`."""
        columns = (
            TextColumn("         "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, note="")

            def update(done: float, total: float | None, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield update

    def tells(self, record: Mapping[str, Any]) -> None:
        """Tell one record of the audit log, unless it is one of many inferences."""
        at_s = record["time_ms"] / 1000 - self.epoch_s
        # What happened before we began is another run's story.
        if record["kind"] == "inference" or at_s < -1:
            return
        *_, organisation, role = record["actor"].split("/")
        told = sentence(record["kind"], record["subject"])
        self._tell(at_s, role, organisation, told)

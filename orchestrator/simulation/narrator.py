"""Tell a person what each party is doing, and keep the same story for the report."""

import contextlib
import json
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

_COLOURS = {
    "orchestrator": "cyan",
    "operator": "bright_cyan",
    "key-holder": "magenta",
    "inference-server": "yellow",
    "model-provider": "blue",
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
        """Print and remember what a party did."""
        self.story.append(Happening(round(self.now(), 3), role, party, text))
        colour = _COLOURS.get(role, "white")
        who = f"{party} ({role})"
        self.console.print(
            f"  [dim]{self.now():6.1f} s[/dim]  [{colour}]{who:<33}[/{colour}] "
            f"{escape(text)}",
            highlight=False,
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

            def update(done: float, total: float, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield update

    def tells(self, body: bytes) -> None:
        """Tell one record of the audit log, unless it is one of many inferences."""
        record = json.loads(body)
        if record["kind"] != "inference":
            role, party = _actor(record["actor"])
            self.says(role, party, _sentence(record["kind"], record["subject"]))


def _actor(spiffe: str) -> tuple[str, str]:
    *_, organisation, role = spiffe.split("/")
    return role, organisation


def _sentence(kind: str, subject: Mapping[str, Any]) -> str:
    facts = (f"{name} {_short(value)}" for name, value in subject.items())
    return f"{kind.replace('.', ' ')}: {', '.join(facts)}"


def _short(value: object) -> str:
    text = str(value).removeprefix("spiffe://")
    digest = len(text) >= 40 and all(c in "0123456789abcdef" for c in text)  # noqa: PLR2004 -- long hex is a digest
    return f"{text[:12]}..." if digest else text

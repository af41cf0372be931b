"""Tell how training goes: JSON lines for a program, a progress bar for a person."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from parties.model_provider.release import Epoch

if TYPE_CHECKING:
    from core.training import Progress as Step

_PAUSE_S: Final = 0.2


class Reporter(Protocol):
    """Somebody who wants to know."""

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """Data is being fetched or read."""
        ...

    def step(self, step: "Step", epochs: int) -> None:
        """A step of training is done."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done and the model evaluated."""
        ...

    def done(self, **facts: Any) -> None:
        """All is done."""
        ...


@contextmanager
def reporter(form: str) -> Iterator[Reporter]:
    """Report as `json` lines on stdout, or as a `bar` on the terminal."""
    if form == "json":
        yield JsonReporter()
        return
    what, why = TextColumn("{task.description}"), TextColumn("{task.fields[why]}")
    with Progress(what, BarColumn(), why, console=Console(stderr=True)) as progress:
        yield BarReporter(progress)


class JsonReporter:
    """One JSON object a line; steps are thinned out to a few a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def preparing(self, what: str, done: int, total: int | None) -> None:
        if self._due() or done == total:
            emit("preparing", what=what, done=done, total=total)

    def step(self, step: "Step", epochs: int) -> None:
        if not self._due() and step.accuracy is None:
            return
        emit(
            "progress",
            epoch=step.epoch,
            epochs=epochs,
            step=_within_epoch(step, epochs),
            steps=step.steps // epochs,
            loss=step.loss,
            accuracy=step.accuracy,
            seconds_left=round(step.seconds_left, 1),
        )

    def epoch(self, epoch: Epoch) -> None:
        emit(
            "epoch",
            epoch=epoch.epoch,
            loss=epoch.loss,
            accuracy=epoch.accuracy,
            seconds=epoch.seconds,
            cpu_seconds=epoch.cpu_seconds,
        )

    def done(self, **facts: Any) -> None:
        emit("done", **facts)

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _PAUSE_S
        return True


class BarReporter:
    """A Rich progress bar; a line of its own for each epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("preparing", total=None, why="")

    def preparing(self, what: str, done: int, total: int | None) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total)

    def step(self, step: "Step", epochs: int) -> None:
        self._progress.update(
            self._task,
            description=f"epoch {step.epoch} of {epochs}",
            completed=step.step,
            total=step.steps,
            why=f"loss {step.loss:.3f}, {step.seconds_left:.0f} s left",
        )

    def epoch(self, epoch: Epoch) -> None:
        self._progress.console.print(
            f"epoch {epoch.epoch}: loss {epoch.loss:.3f},"
            f" test accuracy {epoch.accuracy:.1%}, {epoch.seconds:.0f} s",
            highlight=False,
        )

    def done(self, **facts: Any) -> None:
        for name, value in facts.items():
            self._progress.console.print(f"{name}: {value}", highlight=False)


def tell_json(event: str, fields: Mapping[str, Any]) -> None:
    """Tell of a federated training: an event a line."""
    emit(event, **fields)


def tell_people(event: str, fields: Mapping[str, Any]) -> None:
    """Tell of a federated training: a line for each round, and one for each site."""
    console = Console(stderr=True, highlight=False)
    if event == "resumed":
        console.print(f"goes on after round {fields['round']} of {fields['rounds']}")
    for site in fields["sites"] if event == "sites" else ():
        console.print(f"{site['site']}: {site['train']} images to learn from")
    if event == "round":
        console.print(
            f"round {fields['round']} of {fields['rounds']}: loss {fields['loss']:.3f},"
            f" test accuracy {fields['accuracy']:.1%}, {fields['seconds']:.0f} s"
        )
        for site in fields["sites"]:
            console.print(f"  {site['site']}: {_scored(site)}")


def emit(event: str, **fields: Any) -> None:
    """Print one event as a line of JSON."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _within_epoch(step: "Step", epochs: int) -> int:
    return step.step - (step.epoch - 1) * (step.steps // epochs)


def _scored(site: Mapping[str, Any]) -> str:
    right = site["accuracy"]
    seen = "not there to test" if right is None else f"test accuracy {right:.1%}"
    return f"loss {site['loss']:.3f}, {seen}"

"""Measure servers in turns, round by round, against the bare forward of their model."""

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from core.datasets import load as load_data
from core.preprocessing import Pixels
from orchestrator.bench import machine
from orchestrator.bench.driving import (
    Measured,
    WrongAnswers,
    drive,
    forward_bare,
)
from orchestrator.bench.environments import PeerNotInstalled
from orchestrator.bench.load import Load, Way
from orchestrator.bench.namespaces import PeerNotAlone
from orchestrator.bench.peers import (
    ALLOCATOR,
    THREADS,
    Peer,
    PeerExposed,
    PeerNotStarted,
    peer,
)
from orchestrator.bench.questions import Answered, answer_plainly, write_questions
from orchestrator.bench.recipes import Recipe, read_recipes
from orchestrator.bench.release import write_large
from orchestrator.bench.statistics import spread
from orchestrator.simulation.run import terminate_like_interrupt

BARE: Final = "torch eager, bare"
SINGLE: Final = 1
BULK: Final = 32

# A server, opened when its turn comes; the folder is where it may write.
Opened = Callable[[Path], AbstractContextManager[Peer]]
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how often, with how many callers and images a request."""

    seconds: float = 5.0
    rounds: int = 3
    callers: int = 32
    images: tuple[int, ...] = (SINGLE, BULK)
    # So many images of the test set are asked about.
    questions: int = 512


@dataclass(slots=True)
class Series:
    """All measurements of one server with one size of requests."""

    name: str
    version: str
    protocol: str
    images: int
    measured: list[Measured] = field(default_factory=list)

    def row(self, bare: "Series") -> dict[str, Any]:
        """Medians, and how they compare with the bare forward of the same rounds."""
        rates = spread([each.images_per_s for each in self.measured])
        per_cpu = spread([each.images_per_cpu_s for each in self.measured])
        p50 = spread([each.p50_ms for each in self.measured])
        p99 = spread([each.p99_ms for each in self.measured])
        return {
            "peer": self.name,
            "version": self.version,
            "protocol": self.protocol,
            "images_a_request": self.images,
            "images_per_s": round(rates.median, 1),
            "least_to_most": [round(rates.least, 1), round(rates.most, 1)],
            "images_per_cpu_s": round(per_cpu.median, 1),
            "p50_ms": round(p50.median, 2),
            "p99_ms": round(p99.median, 2),
            "over_bare": round(_over(self, bare, "images_per_s"), 3),
            "per_cpu_over_bare": round(_over(self, bare, "images_per_cpu_s"), 3),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The bare forward, each server that was measured, and why others were not."""

    bare: Series
    series: tuple[Series, ...]
    absent: Mapping[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each server and size of requests, the bare forward first."""
        return [each.row(self.bare) for each in (self.bare, *self.series)]


def measure_peers(
    given: Path | None, names: Sequence[str], plan: Plan, folder: Path, told: Told
) -> dict[str, Any]:
    """Measure other servers with the model of a release; None: random weights.

    A peer that does not install or start, answers wrongly or can be reached from other
    machines is absent from the rows; why, is in `absent`.

    Raises:
        NotFound: there is no such peer, or no release.
    """
    recipes = read_recipes(names)
    release = given or write_large(folder / "release", _images(plan))
    answered = known_images(release, plan)
    servers = {r.name: opened(r, release, answered, told) for r in recipes}
    with terminate_like_interrupt():
        found = compare(servers, release, answered, plan=plan, folder=folder, told=told)
    return {
        "release": str(release),
        "callers": plan.callers,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "threads": THREADS,
        "allocator": {"libc": " ".join(platform.libc_ver()), **ALLOCATOR},
        "torch": torch.__version__,
        "machine": machine.described(folder),
        "absent": dict(found.absent),
        "rows": found.rows(),
    }


def known_images(release: Path, plan: Plan, data: str = "cifar10") -> Answered:
    """The first images of a test set, with the plain model's answers."""
    return answer_plainly(release, _images(plan, data))


def _images(plan: Plan, data: str = "cifar10") -> Pixels:
    return load_data(data, "test").images[: plan.questions]


def opened(recipe: Recipe, release: Path, answered: Answered, told: Told) -> Opened:
    """How to open a peer for `compare`."""
    first = answered.questions(recipe.form, SINGLE)[0]
    return lambda folder: peer(recipe, release, first, folder, told)


def compare(
    servers: Mapping[str, Opened],
    release: Path,
    answered: Answered,
    *,
    plan: Plan,
    folder: Path,
    told: Told,
) -> Comparison:
    """Measure every server once a round, one at a time, after the bare forward."""
    bare = Series(BARE, torch.__version__, "none", BULK)
    series: dict[tuple[str, int], Series] = {}
    absent: dict[str, str] = {}
    for number in range(1, plan.rounds + 1):
        told(f"round {number} of {plan.rounds}: {BARE}")
        bare.measured.append(forward_bare(release, BULK, plan.seconds))
        for name, server in servers.items():
            if name in absent:
                continue
            told(f"round {number} of {plan.rounds}: {name}")
            try:
                turn(server, answered, plan, folder / name, series)
            except (
                PeerNotInstalled,
                PeerNotStarted,
                PeerNotAlone,
                PeerExposed,
                WrongAnswers,
            ) as error:
                absent[name] = f"{error.kind}: {error}"
                told(f"{name} is absent: {error}")
    there = tuple(each for each in series.values() if each.name not in absent)
    return Comparison(bare, there, absent)


def turn(
    server: Opened,
    answered: Answered,
    plan: Plan,
    folder: Path,
    series: dict[tuple[str, int], Series],
) -> None:
    """Open one server, measure it with each size of requests, and close it."""
    folder.mkdir(parents=True, exist_ok=True)
    with server(folder) as running:
        target = running.target
        for images in plan.images:
            asked = folder / f"questions-{images}"
            write_questions(asked, answered.questions(target.form, images))
            load = Load(
                ways=(Way(target=target, questions=str(asked)),),
                callers=plan.callers,
                seconds=plan.seconds,
            )
            key = (running.name, images)
            named = (running.name, running.version, target.transport, images)
            # Before there is a series: one without a measurement has no row.
            seen = drive(running, load)
            series.setdefault(key, Series(*named)).measured.append(seen)


def _over(one: Series, bare: Series, figure: str) -> float:
    """The median of each round's ratio: what disturbs a round disturbs both."""
    ratios = [
        getattr(mine, figure) / getattr(its, figure)
        for mine, its in zip(one.measured, bare.measured, strict=False)
    ]
    return spread(ratios).median

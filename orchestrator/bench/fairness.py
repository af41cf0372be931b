"""What one owner that asks without pause costs another: its slowest answers, in turns.

Beside an idle server, an owner waits for the batch that is under way when it comes, and
shares the processors. So the same load is measured too when it comes from as many
owners as callers: what a flood of one owner costs beyond that would be unfair.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from core.datasets import load as load_data
from orchestrator.bench import machine, ours
from orchestrator.bench.checks import check_log
from orchestrator.bench.driving import Measured, drive
from orchestrator.bench.keys import Plan as Sizes
from orchestrator.bench.load import Load, Way
from orchestrator.bench.ours import Site
from orchestrator.bench.statistics import spread
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import terminate_like_interrupt

ALONE: Final = "alone"
ONE_OWNER: Final = "beside one owner"
MANY_OWNERS: Final = "beside as many owners"
_SETTINGS: Final = (ALONE, ONE_OWNER, MANY_OWNERS)
_IMAGES: Final = 64
_WARM_S: Final = 1.5
# The flood begins before the other owner counts, and ends after it.
_AROUND_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One owner floods with so many callers; `calm` are the other's, in turns."""

    callers: int = 64
    calm: tuple[int, ...] = (1, 32)
    hidden: int = 256
    depth: int = 8
    patch: int = 4
    seconds: float = 4.0
    rounds: int = 5
    data: str = "cifar10"
    release: Path | None = None


@dataclass(slots=True)
class Waits:
    """The calm owner's measurements, by its callers and by what was beside it."""

    measured: dict[tuple[int, str], list[Measured]] = field(default_factory=dict)

    def add(self, callers: int, beside: str, measured: Measured) -> None:
        self.measured.setdefault((callers, beside), []).append(measured)

    def row(self, callers: int, beside: str) -> dict[str, Any]:
        """Medians over the rounds."""
        found = self.measured[callers, beside]
        return {
            "callers": callers,
            "beside": beside,
            "p50_ms": round(spread([m.p50_ms for m in found]).median, 2),
            "p99_ms": round(spread([m.p99_ms for m in found]).median, 2),
            "images_per_s": round(spread([m.images_per_s for m in found]).median, 1),
        }

    def over(self, callers: int, one: str, other: str) -> float:
        """The median of each round's ratio of slowest answers."""
        pairs = zip(
            self.measured[callers, one], self.measured[callers, other], strict=True
        )
        return round(spread([a.p99_ms / b.p99_ms for a, b in pairs]).median, 2)


def measure_fairness(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
    """Bring a federation up, flood it in turns, and say what another owner saw.

    Raises:
        KeymixerError: a part of it failed; every process was stopped.
    """
    sizes = Sizes(plan.callers + 1, plan.hidden, plan.patch, depth=plan.depth)
    pixels = load_data(plan.data, "test").images[: 2 * _IMAGES]
    with (
        terminate_like_interrupt(),
        ours.site(sizes, plan.release, pixels, folder, told) as site,
    ):
        with told.phase("requests", "Owners encrypt what they will ask"):
            asked = _asked(plan, site)
        waits = _measured(plan, site, asked, told)
        with told.phase("check", "The log is recomputed"):
            check_log(site.stage, told)
        return report_of(plan, waits, folder)


def report_of(plan: Plan, waits: Waits, folder: Path) -> dict[str, Any]:
    """Rows, and how much slower the slowest answers were."""
    return {
        "rows": [waits.row(n, beside) for n, beside in _turns(plan.calm)],
        "flooded_over_alone": {
            str(n): waits.over(n, ONE_OWNER, ALONE) for n in plan.calm
        },
        "flooded_over_same_load": {
            str(n): waits.over(n, ONE_OWNER, MANY_OWNERS) for n in plan.calm if n == 1
        },
        "callers": plan.callers,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "machine": machine.described(folder),
    }


@dataclass(frozen=True, slots=True)
class _Asked:
    """The calm owner's way, and those of what is beside it."""

    calm: tuple[Way, ...]
    beside: Mapping[str, tuple[Way, ...]]


def _asked(plan: Plan, site: Site) -> _Asked:
    owners = plan.callers + 1
    files = ours.packed(site, "ones", owners=owners, images=_IMAGES, batch=1)
    calm, *others = ours.ways(site, files)
    beside = {ALONE: (), ONE_OWNER: (others[0],), MANY_OWNERS: tuple(others)}
    return _Asked((calm,), beside)


def _measured(plan: Plan, site: Site, asked: _Asked, told: Narrator) -> Waits:
    waits = Waits()
    for number in range(1, plan.rounds + 1):
        title = f"Round {number} of {plan.rounds}"
        with told.phase(f"round {number}", title):
            for callers, beside in _turns(plan.calm):
                with _flood(plan, site, asked.beside[beside]):
                    waits.add(callers, beside, _calm(plan, site, asked.calm, callers))
    return waits


def _turns(calm: Sequence[int]) -> Iterator[tuple[int, str]]:
    """What is measured with each number of callers, in order.

    An owner of many callers beside as many owners has one share of 65: rightly no
    answers to speak of in some seconds, and so nothing to compare a flood with.
    """
    for callers in calm:
        for beside in _SETTINGS if callers == 1 else (ALONE, ONE_OWNER):
            yield callers, beside


def _calm(plan: Plan, site: Site, ways: tuple[Way, ...], callers: int) -> Measured:
    load = Load(ways=ways, callers=callers, seconds=plan.seconds, warm_s=_WARM_S)
    return drive(site.server, load, site.log)


@contextmanager
def _flood(plan: Plan, site: Site, ways: tuple[Way, ...]) -> Iterator[None]:
    """Have others ask without pause, for longer than the block will take."""
    if not ways:
        yield
        return
    load = Load(
        ways=ways,
        callers=plan.callers,
        seconds=plan.seconds + _AROUND_S,
        warm_s=_WARM_S,
    )
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(drive, site.server, load)
        yield
        flooding.result()

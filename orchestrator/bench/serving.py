"""How fast a federation answers: real servers, mutual TLS, a record for every answer.

Beside it, in the same rounds: its engine and torch with nothing around them, the same
server without its log or without TLS, and the servers that people use today.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from core.datasets import load as load_data
from core.errors import Unavailable
from core.processors import processors
from orchestrator.bench import machine, ours
from orchestrator.bench.checks import check_log
from orchestrator.bench.comparison import Opened, Series, opened, turn
from orchestrator.bench.comparison import Plan as PeersPlan
from orchestrator.bench.driving import LoadFailed, Measured, WrongAnswers, drive
from orchestrator.bench.keys import Plan as Sizes
from orchestrator.bench.load import Load
from orchestrator.bench.ours import Site
from orchestrator.bench.peers import ALLOCATOR, THREADS, PeerExposed
from orchestrator.bench.recipes import read_recipes
from orchestrator.bench.statistics import spread
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import terminate_like_interrupt

SINGLE: Final = 1
BULK: Final = 32
# Connections of so many owners are made before anything counts.
_OWNERS_A_SECOND: Final = 100

OURS: Final = "keymixer"
ONE_OWNER: Final = "keymixer, one owner"
MIXED: Final = "keymixer, all owners"
BATCHES: Final = "keymixer, 32 images a request"
ONE_CALLER: Final = "keymixer, one caller"
NO_AUDIT: Final = "keymixer without audit"
NO_TLS: Final = "keymixer without tls"
BARE: Final = "bare onnxruntime"
BARE_ONE: Final = "bare onnxruntime, one image"
EAGER: Final = "bare torch eager"
_CASES: Final = frozenset(
    {ONE_OWNER, MIXED, BATCHES, ONE_CALLER, NO_AUDIT, NO_TLS, BARE, BARE_ONE, EAGER}
)
_CPU: Final = "images_per_cpu_s"
_TOLD: Final = ("owners", "callers", "hidden", "depth", "patch", "seconds", "rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many owners and callers; `peers` are names, None all, empty none."""

    owners: int = 1000
    callers: int = 32
    hidden: int = 256
    depth: int = 8
    patch: int = 4
    seconds: float = 4.0
    rounds: int = 3
    images: int = 64
    data: str = "cifar10"
    release: Path | None = None
    peers: tuple[str, ...] | None = None
    engine: str = "onnxruntime"
    # Processes that are our server; 0: as many as there are processors.
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured in every round."""

    name: str
    images: int
    measure: Callable[[], Measured]


def measure_serving(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
    """Bring a federation up, measure it in turns with everything else, and compare.

    Raises:
        KeymixerError: a part of it failed; every process was stopped.
    """
    replicas = plan.replicas or processors()
    sizes = Sizes(
        plan.owners, plan.hidden, plan.patch, depth=plan.depth, replicas=replicas
    )
    pixels = load_data(plan.data, "test").images[: 2 * plan.images]
    with (
        terminate_like_interrupt(),
        ours.site(sizes, plan.release, pixels, folder, told) as site,
    ):
        with told.phase("requests", "Owners encrypt what they will ask"):
            cases = list(_cases(plan, site))
        peers = _peers(plan, site, told)
        rounds = _Rounds(plan, site, cases, peers)
        rounds.run(told)
        with told.phase("check", "The log is recomputed"):
            check_log(site.stage, told)
        return _report(plan, rounds.series, rounds.absent, folder)


def _cases(plan: Plan, site: Site) -> Iterator[Case]:
    ones = ours.packed(
        site, "ones", owners=plan.callers, images=plan.images, batch=SINGLE
    )
    few = ours.packed(site, "few", owners=plan.owners, images=2, batch=SINGLE)
    batches = ours.packed(site, "batches", owners=4, images=plan.images, batch=BULK)
    one = dict([next(iter(ones.items()))])
    asking = _Asking(plan, site)

    yield Case(BARE, BULK, lambda: _bare(plan, site, plan.engine, BULK))
    yield Case(OURS, SINGLE, lambda: asking.all_of(ones))
    yield Case(NO_AUDIT, SINGLE, lambda: asking.without("audit", ones))
    yield Case(NO_TLS, SINGLE, lambda: asking.without("tls", ones))
    yield Case(BATCHES, BULK, lambda: asking.all_of(batches, callers=len(batches)))
    yield Case(EAGER, BULK, lambda: _bare(plan, site, "torch", BULK))
    yield Case(ONE_OWNER, SINGLE, lambda: asking.all_of(one))
    yield Case(MIXED, SINGLE, lambda: asking.all_of(few))
    yield Case(BARE_ONE, SINGLE, lambda: _bare(plan, site, plan.engine, SINGLE))
    yield Case(ONE_CALLER, SINGLE, lambda: asking.all_of(one, callers=1))


@dataclass(frozen=True, slots=True)
class _Asking:
    """Puts loads on our server, or on copies that lack something."""

    plan: Plan
    site: Site

    def all_of(self, asked: Mapping[str, Path], callers: int = 0) -> Measured:
        """Ask the server as these owners, each what is in its file."""
        return self._of(self.site.server, asked, callers)

    def without(self, part: str, asked: Mapping[str, Path]) -> Measured:
        """Ask copies; they run no longer, for they would look at the registry."""
        with ours.without(self.site, part, asked) as server:
            return self._of(server, asked)

    def _of(
        self, server: ours.Replicas, asked: Mapping[str, Path], callers: int = 0
    ) -> Measured:
        load = Load(
            ways=ours.ways(self.site, asked, server),
            callers=callers or self.plan.callers,
            seconds=self.plan.seconds,
            warm_s=1.0 + len(asked) / _OWNERS_A_SECOND,
        )
        return drive(server, load, self.site.log)


def _bare(plan: Plan, site: Site, engine: str, batch: int) -> Measured:
    """The engine alone, in a process of its own, on the model of our server."""
    command = [sys.executable, "-m", "parties.inference_server.bare"]
    command += ["--folder", str(site.folder), "--engine", engine]
    command += ["--batch", str(batch), "--seconds", str(plan.seconds)]
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        env={**os.environ, **ALLOCATOR},
    )
    if done.returncode:
        raise LoadFailed(f"the bare {engine} ended with {done.returncode}")
    return Measured(**json.loads(done.stdout))


def _peers(plan: Plan, site: Site, told: Narrator) -> dict[str, Opened]:
    if plan.peers == ():
        return {}
    recipes = read_recipes(plan.peers or ())

    def tell(line: str) -> None:
        told.console.print(f"  {line}", highlight=False, markup=False)

    return {r.name: opened(r, site.release, site.answered, tell) for r in recipes}


@dataclass(slots=True)
class _Rounds:
    """Everything that is measured in turns, and what was seen of it so far."""

    plan: Plan
    site: Site
    cases: Sequence[Case]
    peers: Mapping[str, Opened]
    series: dict[tuple[str, int], Series] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def run(self, told: Narrator) -> None:
        for number in range(1, self.plan.rounds + 1):
            title = f"Round {number} of {self.plan.rounds}"
            with told.phase(f"round {number}", title), told.bar("measured") as bar:
                self._round(lambda done, name: bar(done, self._turns, name))

    @property
    def _turns(self) -> int:
        return len(self.cases) + len(self.peers)

    def _round(self, tell: Callable[[int, str], None]) -> None:
        for done, case in enumerate(self.cases):
            tell(done, case.name)
            new = Series(case.name, "", "gRPC", case.images)
            seen = self.series.setdefault((case.name, case.images), new)
            seen.measured.append(case.measure())
        for done, (name, server) in enumerate(self.peers.items(), len(self.cases)):
            tell(done, name)
            if name not in self.absent:
                self._peer(name, server)

    def _peer(self, name: str, server: Opened) -> None:
        """One that failed in any round is left out: its rounds are not ours."""
        asked = PeersPlan(
            seconds=self.plan.seconds, callers=self.plan.callers, images=(SINGLE,)
        )
        folder = self.site.stage.workspace.root / "peers" / name
        try:
            turn(server, self.site.answered, asked, folder, self.series)
        except (Unavailable, PeerExposed, WrongAnswers) as error:
            self.absent[name] = f"{error.kind}: {error}"
            self.series.pop((name, SINGLE), None)


def _report(
    plan: Plan,
    series: Mapping[tuple[str, int], Series],
    absent: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    by_name = {name: each for (name, _), each in series.items()}
    mine = _CASES | {OURS}
    rivals = {name: each for name, each in by_name.items() if name not in mine}
    return {
        **ratios(by_name, rivals),
        "rows": [each.row(by_name[BARE]) for each in series.values()],
        "absent": dict(absent),
        "plan": {name: _plain(getattr(plan, name)) for name in _TOLD}
        | {"replicas": plan.replicas or processors()},
        "threads": THREADS,
        "allocator": {"libc": " ".join(platform.libc_ver()), **ALLOCATOR},
        "machine": machine.described(folder),
    }


def ratios(
    by_name: Mapping[str, Series], rivals: Mapping[str, Series]
) -> dict[str, Any]:
    def over(one: str, other: str, figure: str = "images_per_s") -> float:
        pairs = zip(by_name[one].measured, by_name[other].measured, strict=True)
        ratios = [getattr(a, figure) / getattr(b, figure) for a, b in pairs]
        return round(spread(ratios).median, 3)

    best = max(rivals, key=lambda name: _rate(rivals[name]), default=None)
    frugal = max(rivals, key=lambda name: _rate(rivals[name], _CPU), default=None)
    return {
        "best_peer": best,
        "served_over_best_peer": over(OURS, best) if best else None,
        "served_per_cpu_over_best_peer": over(OURS, frugal, _CPU) if frugal else None,
        "batched_over_bare": over(BATCHES, BARE),
        "served_over_bare_eager": over(BATCHES, EAGER),
        "single_over_bare": over(OURS, BARE),
        "single_over_bare_eager": over(OURS, EAGER),
        "mixed_over_single": over(MIXED, ONE_OWNER),
        "p99_over_bare": round(
            spread([m.p99_ms for m in by_name[ONE_CALLER].measured]).median
            / spread([m.p50_ms for m in by_name[BARE_ONE].measured]).median,
            3,
        ),
        "audit_on_over_off": over(OURS, NO_AUDIT),
        "tls_on_over_off": over(OURS, NO_TLS),
    }


def _rate(series: Series, figure: str = "images_per_s") -> float:
    return spread([getattr(each, figure) for each in series.measured]).median


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

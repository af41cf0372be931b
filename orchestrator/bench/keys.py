"""Rotate the keys of many owners on one machine, and measure what it takes.

Nothing is simulated: the servers are the processes that `keymixer up` starts, with
their databases, and every owner has a certificate, keys and connections of its own.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from core.rpc.identity import DATA_OWNER
from orchestrator.bench import machine
from orchestrator.bench.checks import (
    BenchFailed,
    check_keys,
    check_log,
    check_stopped,
)
from orchestrator.bench.federation import MODEL, federation_of, write_federation
from orchestrator.bench.milestones import (
    CREATION,
    FIRST,
    NEXT,
    ROTATION,
    Journal,
    Milestone,
    Passage,
)
from orchestrator.bench.release import architecture_of, write_untrained
from orchestrator.bench.usage import Usage, database_megabytes, used
from orchestrator.operator import Operator
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Event
from orchestrator.simulation.run import running, terminate_like_interrupt
from orchestrator.simulation.setup import Stage, acts_of, release, start_servers
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import Workspace, create_workspace

_LOOK_S: Final = 0.5
_STALLED_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many owners, and the sizes of their keys' model; `threads` owners at a time.

    A key is an orthogonal matrix of `3 patch²` rows, an issued embedding `hidden` rows
    of as many numbers.
    """

    owners: int = 1000
    hidden: int = 256
    patch: int = 4
    threads: int = 8
    # Keys have to do with the embedding only: one layer behind it is enough.
    depth: int = 1
    # How many processes are the inference server.
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Spent:
    """What the rotation took: of the servers, of the owners' process, of the log."""

    servers: Usage
    owners_cpu_s: float
    records: int


@dataclass
class Bench:
    """A run under way."""

    plan: Plan
    stage: Stage
    told: Narrator
    journal: Journal = field(default_factory=Journal)


def measure_keys(plan: Plan, runs: Path, console: Console) -> dict[str, Any]:
    """Bring a federation up in `runs`, rotate every key, check it, and say the cost.

    Raises:
        ConfigurationError: the sizes do not fit each other.
        KeymixerError: a part of it failed; every process was stopped.
    """
    federation = federation_of(plan.owners, plan.hidden, plan.patch, plan.depth)
    architecture_of(federation.models[0])
    told = Narrator(console)
    with terminate_like_interrupt():
        with told.phase(
            "identities", f"{plan.owners:,} owners, each with a certificate"
        ):
            workspace = workspace_for(plan, runs)
        with running(workspace, Narrator(Console(quiet=True)), "") as stage:
            return _run(Bench(plan, stage, told))


def workspace_for(plan: Plan, runs: Path) -> Workspace:
    """Lay a federation out in a folder, with a certificate for everybody."""
    runs.mkdir(parents=True, exist_ok=True)
    scenario = runs / "federation.yaml"
    federation = federation_of(
        plan.owners, plan.hidden, plan.patch, plan.depth, plan.replicas
    )
    write_federation(federation, scenario)
    return create_workspace(runs, scenario)


def _run(bench: Bench) -> dict[str, Any]:
    stage, phase = bench.stage, bench.told.phase
    with phase("servers", "Orchestrator, key holder and inference server"):
        start_servers(stage)
    with phase("release", "A model that nobody trained"):
        write_untrained(release_folder(stage.workspace, stage.model), stage.model)
        release(stage)
    with phase("keys", "First keys: drawn, delivered, issued"):
        create_keys(bench)
    with phase("rotation", "Rotation of every key"):
        spent = _rotate(bench)
    with phase("check", "Every key is as it should be, and so is the log"):
        check_keys(stage)
        check_log(stage, bench.told)
    with phase("stop", "The federation stops"):
        stage.running.stop()
        check_stopped(stage)
    return _report(bench, spent)


def create_keys(bench: Bench) -> None:
    """Have every owner given a key, and wait until each is confirmed and issued."""
    with bench.stage.operator() as operator, _crowd(bench, FIRST, "--register") as acts:
        with bench.told.bar("asked for") as bar:
            for done, owner in enumerate(bench.stage.owners, start=1):
                spiffe = str(bench.stage.workspace.owner(owner))
                operator.grant(spiffe, MODEL)
                operator.create_key(spiffe, MODEL)
                bar(done, bench.plan.owners)
        _follow(bench, operator, CREATION, acts)


def _rotate(bench: Bench) -> Spent:
    usage, records = used(bench.stage), bench.journal.records
    with bench.stage.operator() as operator, _crowd(bench, NEXT) as acts:
        _ask_for_all(operator, bench.plan.owners)
        _follow(bench, operator, ROTATION, acts)
        owners_s = float(acts.result()[-1]["cpu_s"])
    return Spent(
        used(bench.stage).since(usage), owners_s, bench.journal.records - records
    )


def _ask_for_all(operator: Operator, keys: int) -> None:
    """Have every key rotated, once: only so many are in one transaction."""
    began, asked = time.monotonic(), 0
    while asked < keys:
        # A key that was rotated meanwhile is younger than this.
        since = time.monotonic() - began
        answer = operator.rotate_keys(MODEL, overlap_s=0.0, older_than_s=since)
        started = sum(not rotation.left_out for rotation in answer.rotations)
        if not started:
            raise BenchFailed(f"{keys - asked} keys are not rotated")
        asked += started


@contextmanager
def _crowd(
    bench: Bench, version: int, *options: str
) -> Iterator["Future[list[Event]]"]:
    """The owners, in a process beside us: they wait for their keys and prove them."""
    folder = bench.stage.workspace.owner_folder(bench.stage.owners[0]).parent
    command = (
        *("parties.data_owner", "crowd", "--owners", str(folder)),
        *("--version", str(version), "--threads", str(bench.plan.threads), *options),
    )
    run = bench.stage.running.run
    with acts_of(bench.stage, 1) as pool:
        yield pool.submit(run, f"owners-{version}", DATA_OWNER, command)


def _follow(
    bench: Bench,
    operator: Operator,
    milestones: Sequence[Milestone],
    crowd: "Future[list[Event]]",
) -> None:
    """Read the log until every key has passed the last milestone."""
    last, journal, news = milestones[-1], bench.journal, time.monotonic()
    with bench.told.bar(last.word.replace("_", " ")) as bar:
        while (done := journal.count(last)) < bench.plan.owners:
            bar(done, bench.plan.owners, _counted(journal, milestones[:-1]))
            bench.stage.running.check()
            if crowd.done():
                crowd.result()
            known = journal.records
            journal.read(operator.entries(known))
            news = news if journal.records == known else time.monotonic()
            _require_progress(journal, time.monotonic() - news)
            time.sleep(_LOOK_S)


def _counted(journal: Journal, milestones: Sequence[Milestone]) -> str:
    return ", ".join(f"{m.word} {journal.count(m):,}" for m in milestones)


def _require_progress(journal: Journal, silent_s: float) -> None:
    if journal.stuck:
        raise BenchFailed(f"a job needs an operator: {journal.stuck}")
    if silent_s > _STALLED_S:
        raise BenchFailed(f"nothing has happened for {silent_s:.0f} seconds")


def _report(bench: Bench, spent: Spent) -> dict[str, Any]:
    plan, seconds = bench.plan, bench.told.seconds
    rotation = bench.journal.passages(ROTATION)
    return {
        "owners": plan.owners,
        "hidden": plan.hidden,
        "patch": plan.patch,
        "threads": plan.threads,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 3)},
        "creation": _passed(bench.journal.passages(CREATION)),
        "rotation": _passed(rotation),
        "rotations_per_s": round(plan.owners / max(rotation[-1].last_s, 0.001), 2),
        "cpu_seconds": {
            **spent.servers.cpu_seconds,
            DATA_OWNER: spent.owners_cpu_s,
        },
        "commits": dict(spent.servers.commits),
        "records": spent.records,
        "database_mb": database_megabytes(bench.stage),
        "machine": machine.described(bench.stage.workspace.root),
    }


def _passed(passages: Sequence[Passage]) -> dict[str, dict[str, float]]:
    return {
        passage.word: {
            name: round(value, 3)
            for name, value in asdict(passage).items()
            if name != "word"
        }
        for passage in passages
    }

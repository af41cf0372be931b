"""Is it worth it: several sites together, beside all images in one place, and one alone.

Everybody gets the same budget: so many passes over as many images as all sites have
together. The federation makes a round of each pass, in which every site sees its own
images once; a site that trains alone sees its own images again and again instead. What
it took of the processors is measured, and everybody is tested on all test images.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

from core.datasets import load
from core.datasets.partition import Partition
from orchestrator.bench import machine
from orchestrator.bench.trainings import Shape, Trainer, Training
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import PYTHON, processes
from orchestrator.simulation.run import terminate_like_interrupt

# A processor's seconds are compared, so each training has one.
_ONE_THREAD: Final = ("env", "OMP_NUM_THREADS=1", *PYTHON)

# What all trainings have in common.
_OF_ALL: Final = ("shape", "digests", "code")

Run = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which sites, and the budget: `epochs` are passes over all images.

    `trial` is how many passes each site makes to be chosen as the best one. `jobs` is
    how many seeds are trained at the same time.
    """

    data: str = "cifar10"
    sites: int = 5
    epochs: int = 8
    seeds: int = 3
    partitions: tuple[str, ...] = ("iid", "dirichlet:0.3")
    trial: int = 1
    jobs: int = 1
    shape: Shape = field(default_factory=Shape)


def measure_federated(plan: Plan, folder: Path, told: Narrator) -> dict[str, Any]:
    """Train everybody, and say how good each became.

    What is done is kept in `folder`, and a second call goes on from there.

    Raises:
        ConfigurationError: the folder holds trainings with other options.
        ProcessFailed: a training ended with an error; the others were stopped.
    """
    splits = (load(plan.data, "train"), load(plan.data, "test"))
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    record = folder / "processes.json"
    with terminate_like_interrupt(), processes(logs, record, _ONE_THREAD) as running:
        trainer = Trainer(folder, plan.data, splits, plan.shape, running, told)
        pool = ThreadPoolExecutor(plan.jobs)
        try:
            parts = pool.map(lambda seed: _seed(plan, trainer, seed), range(plan.seeds))
            runs = [run for part in parts for run in part]
        finally:
            running.stop()
            pool.shutdown(wait=False, cancel_futures=True)
    return report_of(plan, runs, len(splits[0]), folder)


def report_of(
    plan: Plan, runs: Sequence[Run], images: int, folder: Path
) -> dict[str, Any]:
    """Rows over the seeds, and what each training came to."""
    keys = dict.fromkeys((run["what"], run["partition"]) for run in runs)
    rows = [_row(key, runs) for key in keys if key[0] != "trial"]
    return {
        "rows": rows,
        "worth": {p: _worth(p, rows) for p in plan.partitions},
        "budget_images": plan.epochs * images,
        "runs": [{n: v for n, v in run.items() if n not in _OF_ALL} for run in runs],
        **{name: runs[0][name] for name in _OF_ALL if name != "shape"},
        "plan": {**asdict(plan), "partitions": list(plan.partitions)},
        "machine": machine.described(folder),
    }


def _seed(plan: Plan, trainer: Trainer, seed: int) -> list[Run]:
    return list(_trainings(plan, trainer, seed))


def _trainings(plan: Plan, trainer: Trainer, seed: int) -> Iterator[Run]:
    """All trainings of one seed, which deals the images out, too."""
    yield trainer.run(Training(what="centralised", seed=seed, passes=plan.epochs))
    for partition in plan.partitions:
        whole = Training(
            what="federated",
            seed=seed,
            passes=plan.epochs,
            sites=plan.sites,
            partition=partition,
        )
        yield trainer.run(whole)
        trials = [
            trainer.run(replace(whole, what="trial", passes=plan.trial, site=number))
            for number in _tried(plan, partition)
        ]
        yield from trials
        best = max(trials, key=_accuracy)["site"] if trials else 1
        yield trainer.run(replace(whole, what="one site", site=best))


def _accuracy(run: Run) -> float:
    return float(run["accuracy"])


def _tried(plan: Plan, partition: str) -> Sequence[int]:
    """Who competes; sites that were dealt alike need not."""
    if Partition.parse(partition).kind == "iid":
        return ()
    return range(1, plan.sites + 1)


def _row(key: tuple[str, str], runs: Sequence[Run]) -> dict[str, Any]:
    """One line of the table."""
    mine = [run for run in runs if (run["what"], run["partition"]) == key]
    accuracies = [run["accuracy"] for run in mine]
    return {
        "what": key[0],
        "partition": key[1],
        "accuracies": accuracies,
        "mean": round(mean(accuracies), 4),
        "least": min(accuracies),
        "most": max(accuracies),
        "cpu_seconds": round(mean(run["cpu_seconds"] for run in mine), 1),
    }


def _worth(partition: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Points of accuracy, seed by seed."""
    found = {
        row["what"]: row["accuracies"]
        for row in rows
        if row["partition"] in {"", partition}
    }
    return {
        "federated_over_one_site": _points(found["federated"], found["one site"]),
        "centralised_over_federated": _points(found["centralised"], found["federated"]),
    }


def _points(more: Sequence[float], less: Sequence[float]) -> list[float]:
    return [round(100 * (a - b), 2) for a, b in zip(more, less, strict=True)]

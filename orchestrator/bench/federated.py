"""Is it worth it: sites together, beside all images in one place, and one site alone.

Everybody gets the same budget: so many passes over as many images as all sites have
together. The federation makes a round of each pass, in which every site sees its own
images once; a site that trains alone sees its own images again and again instead. What
it took of the processors is measured, and everybody is tested on all test images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
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
    how many are trained at the same time.
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
        runs = trained(plan, lambda asked: _at_once(plan.jobs, trainer, asked))
    return report_of(plan, runs, len(splits[0]), folder)


def _at_once(jobs: int, trainer: Trainer, asked: Sequence[Training]) -> list[Run]:
    """Train several at the same time; if one fails, the others end too."""
    pool = ThreadPoolExecutor(jobs)
    futures = [pool.submit(trainer.run, each) for each in asked]
    try:
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # One that was only about to start its process is ended in the next turn.
        while not all(future.done() for future in futures):
            trainer.running.stop()
            wait(futures, timeout=1.0)


def trained(
    plan: Plan, train: Callable[[Sequence[Training]], Sequence[Run]]
) -> list[Run]:
    """Have everybody train: first those that can at once, then the best sites alone."""
    seeds = range(plan.seeds)
    runs = list(train([each for seed in seeds for each in _first(plan, seed)]))
    alone = [each for seed in seeds for each in _best(plan, seed, runs)]
    return [*runs, *train(alone)]


def report_of(
    plan: Plan, runs: Sequence[Run], images: int, folder: Path
) -> dict[str, Any]:
    """Rows over the seeds, and what each training came to."""
    dealt = [(what, p) for p in plan.partitions for what in ("federated", "one site")]
    rows = [_row(key, runs) for key in [("centralised", ""), *dealt]]
    return {
        "rows": rows,
        "worth": {p: _worth(p, rows) for p in plan.partitions},
        "budget_images": plan.epochs * images,
        "runs": [{n: v for n, v in run.items() if n not in _OF_ALL} for run in runs],
        **{name: runs[0][name] for name in _OF_ALL if name != "shape"},
        "plan": {**asdict(plan), "partitions": list(plan.partitions)},
        "machine": machine.described(folder),
    }


def _first(plan: Plan, seed: int) -> Iterator[Training]:
    """What can be trained at once; the seed deals the images out, too."""
    yield Training(what="centralised", seed=seed, passes=plan.epochs)
    for partition in plan.partitions:
        whole = _whole(plan, partition, seed)
        yield whole
        for site in _tried(plan, partition):
            yield replace(whole, what="trial", passes=plan.trial, site=site)


def _best(plan: Plan, seed: int, runs: Sequence[Run]) -> Iterator[Training]:
    """The best site of each partition, alone; sites that are alike: the first."""
    for partition in plan.partitions:
        here = ("trial", partition, seed)
        trials = [r for r in runs if (r["what"], r["partition"], r["seed"]) == here]
        best = max(trials, key=_accuracy)["site"] if trials else 1
        yield replace(_whole(plan, partition, seed), what="one site", site=best)


def _whole(plan: Plan, partition: str, seed: int) -> Training:
    return Training(
        what="federated",
        seed=seed,
        passes=plan.epochs,
        sites=plan.sites,
        partition=partition,
    )


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

"""What shields cost in accuracy: the same training under each, some seeds each."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.architecture import Architecture
from core.datasets import Dataset, load
from core.errors import Conflict
from core.preprocessing import Preprocessing, normalise
from core.principal import moments_of
from core.shield import ShieldPlan, shielded
from core.wire import write_atomically

SHIELDS: Final = (
    "none",
    *("highpass:3", "highpass:6", "highpass:9", "highpass:12"),
    *("noise:0.03", "noise:0.1", "noise:0.3"),
)

Told = Callable[[Mapping[str, Any], int, int], None]
Train = Callable[["Budget", tuple[Dataset, Dataset], str, int], dict[str, Any]]


class AnotherMeasurement(Conflict):
    """The log is of trainings with another budget, or on other images."""

    hint = "name another file with --log, or the options that it was written with"


@dataclass(frozen=True, slots=True)
class Budget:
    """What every training has: images, epochs, and a network of this size."""

    data: str = "cifar10"
    images: int = 20_000
    epochs: int = 2
    hidden: int = 64
    depth: int = 4
    patch_size: int = 4
    seeds: int = 3


def measure_shields(
    budget: Budget, shields: Sequence[str], log: Path, told: Told
) -> list[dict[str, Any]]:
    """Train under each shield with each seed; return what `summed_up` makes of it.

    Each training is written to the log when it is done, and one that is there is not
    done again: the program may be ended at any moment, and goes on.

    Raises:
        AnotherMeasurement: the log is of another budget.
    """
    return list(summed_up(each_once(budget, ("shield", shields), log, told, _trained)))


def each_once(
    budget: Budget,
    wanted: tuple[str, Sequence[str]],
    log: Path,
    told: Told,
    train: Train,
) -> list[dict[str, Any]]:
    """Train once for each of the wanted and each seed; what the log has is not again.

    `wanted` says what differs, as a log names it, and its values.

    Raises:
        AnotherMeasurement: the log is of another budget.
    """
    what, values = wanted
    done = _read(log, budget)
    each = [(value, seed) for seed in range(budget.seeds) for value in values]
    known = {(run[what], run["seed"]) for run in done}
    data = None
    for number, (value, seed) in enumerate(each, start=1):
        if (value, seed) in known:
            continue
        data = data or (load(budget.data, "train"), load(budget.data, "test"))
        found = train(budget, data, value, seed)
        done.append({what: value, "seed": seed, **found})
        content = {"budget": asdict(budget), "runs": done}
        write_atomically(log, json.dumps(content, indent=1).encode(), mode=0o644)
        told(done[-1], number, len(each))
    return done


def summed_up(
    runs: Sequence[Mapping[str, Any]], what: str = "shield", plain: str = "none"
) -> Iterator[dict[str, Any]]:
    """Mean and deviation over seeds of each, and the points lost to `plain`."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        scores.setdefault(run[what], []).append(100 * run["accuracy"])
    base = statistics.mean(scores[plain]) if plain in scores else None
    outputs = {run[what]: run["outputs"] for run in runs}
    for value, found in scores.items():
        mean = statistics.mean(found)
        yield {
            what: value,
            "outputs": outputs[value],
            "seeds": len(found),
            "accuracy": round(mean, 2),
            "deviation": round(statistics.stdev(found), 2) if len(found) > 1 else None,
            "least": round(min(found), 2),
            "most": round(max(found), 2),
            # Not -0.0.
            "lost": None if base is None else round(base - mean, 1) + 0.0,
        }


def _read(log: Path, budget: Budget) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    content = json.loads(log.read_text())
    if content["budget"] != asdict(budget):
        raise AnotherMeasurement(f"{log} has the budget {content['budget']}")
    runs: list[dict[str, Any]] = content["runs"]
    return runs


def _trained(
    budget: Budget, data: tuple[Dataset, Dataset], spec: str, seed: int
) -> dict[str, Any]:
    """One training and what came of it; in torch, with one thread."""
    import torch  # noqa: PLC0415 - a data owner's installation has none

    from core.convmixer import initialise  # noqa: PLC0415
    from core.shielding import Shielding  # noqa: PLC0415
    from core.training import Examples, Recipe, evaluate, fit  # noqa: PLC0415

    torch.set_num_threads(1)
    began = time.process_time()
    pixels = data[0].images[: budget.images]
    preprocessing = preprocessing_of(pixels)
    shield = ShieldPlan.parse(spec).make(
        preprocessing, budget.patch_size, moments_of(pixels, budget.patch_size)
    )
    front = None if shield is None else Shielding.of(shield)
    shape = shielded(architecture_of(budget, data[0]), shield)
    train, test = (
        Examples(
            normalise(part.images[:count], preprocessing),
            part.labels[:count].astype(np.int64),
            front,
        )
        for part, count in zip(data, (budget.images, None), strict=True)
    )
    model = initialise(shape, seed)
    curve = fit(model, train, None, Recipe(epochs=budget.epochs, seed=seed))
    return {
        "outputs": shape.dimension,
        "accuracy": evaluate(model, test),
        "loss": round(curve[-1].loss, 4),
        "cpu_s": round(time.process_time() - began, 1),
    }


def architecture_of(budget: Budget, data: Dataset) -> Architecture:
    """The network that every training begins with."""
    height, width, channels = data.images.shape[1:]
    return Architecture(
        hidden=budget.hidden,
        depth=budget.depth,
        patch_size=budget.patch_size,
        channels=channels,
        height=height,
        width=width,
        classes=len(data.classes),
    )


def preprocessing_of(pixels: np.ndarray) -> Preprocessing:
    """Normalise each channel by the mean and deviation of these pixels."""
    height, width, channels = pixels.shape[1:]
    values = [pixels[..., at].astype(np.float64) for at in range(pixels.shape[-1])]
    height, width, channels = pixels.shape[1:]
    return Preprocessing(
        height,
        width,
        channels,
        mean=tuple(round(float(each.mean()) / 255, 4) for each in values),
        std=tuple(round(float(each.std()) / 255, 4) for each in values),
    )

"""What a site holds, and what it does with it: no image leaves this module."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy import ndarray

from core.architecture import Architecture
from core.convmixer import EMBEDDING_WEIGHT, ConvMixer, put_together, take_apart
from core.datasets import Dataset, Split, image_size, load
from core.datasets.partition import Partition, organisations, relabelled, take
from core.errors import ConfigurationError
from core.preprocessing import Preprocessing, normalise
from core.shield import Shield
from core.shielding import Shielding
from core.training import Examples, Penalty, Recipe, evaluate, fit_steadily
from parties.model_provider.federated.moments import COUNT, without_counts
from parties.model_provider.federated.plan import optimiser_name

_SPLITS: Final[tuple[Split, Split]] = ("train", "test")
_SEED_BITS: Final = 63


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A name, and images of its own."""

    name: str
    train: Dataset = field(repr=False)
    test: Dataset = field(repr=False)


@dataclass(frozen=True, slots=True)
class Task:
    """What every site is told besides the weights."""

    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    recipe: Recipe
    optimiser: str
    # 0: the site may go as far from the round's first weights as it learns to.
    proximal_mu: float = 0.0
    # What owners do to each block; the architecture reads what it leaves.
    shield: Shield | None = None


def open_site(node: Mapping[str, Any], run: Mapping[str, Any]) -> Site:
    """Load a site's images: its own, or its part of a dataset that is dealt out.

    Args:
        node: this node's own settings. `data` and `site` name what it has; without
            them, `partition-id` of `num-partitions` is dealt to it.
        run: the training's settings, which say what is dealt, and how.

    Raises:
        ConfigurationError: the node was told neither.
    """
    form = _Form.of(run)
    if "data" in node and "site" in node:
        return _own(str(node["site"]), str(node["data"]), form)
    if "partition-id" not in node or "num-partitions" not in node:
        raise ConfigurationError(
            "expected `site` and `data` in this node's own settings (--node-config)"
        )
    number, count = int(node["partition-id"]), int(node["num-partitions"])
    partition = Partition.parse(str(run["partition"]))
    if partition.kind == "by-organisation":
        name, path = list(organisations(str(run["data"])).items())[number]
        return _own(name, str(path), form)
    dealing = _Dealing(str(run["data"]), form, partition, int(run["partition-seed"]))
    return _dealt(dealing, number, count)


def train_site(
    site: Site, task: Task, state: Mapping[str, ndarray]
) -> tuple[dict[str, ndarray], tuple[float, ...]]:
    """Go on from the round's weights; return the site's own, and its losses.

    With the same arguments and number of threads, the result is the same: a site that
    is asked again after it was killed answers what it would have answered.
    """
    model = model_from(task.architecture, state)
    model.requires_grad_(requires_grad=True)
    losses = fit_steadily(
        model,
        _examples(site.train, task),
        replace(task.recipe, seed=mixed_seed(task.recipe.seed, site.name)),
        optimiser_name(task.optimiser),
        _proximal(model, task.proximal_mu),
    )
    return state_of(model), losses


def evaluate_site(site: Site, task: Task, state: Mapping[str, ndarray]) -> float:
    """Return the share of the site's test images whose class the model names."""
    model = model_from(task.architecture, state)
    return evaluate(model, _examples(site.test, task))


def model_from(
    architecture: Architecture, state: Mapping[str, ndarray], batches: int = 0
) -> ConvMixer:
    """Build a network from what `state_of` gave, and how many batches it has seen."""
    others = dict(state)
    embedding = others.pop(EMBEDDING_WEIGHT, None)
    with torch.device("meta"):
        names = ConvMixer(architecture).state_dict()
    counts = {name: np.array(batches) for name in names if name.endswith(COUNT)}
    return put_together(architecture, {**others, **counts}, embedding)


def state_of(model: ConvMixer) -> dict[str, ndarray]:
    """All weights and what BatchNorm remembers, without its counts."""
    embedding, others = take_apart(model)
    return without_counts({EMBEDDING_WEIGHT: embedding, **others})


def mixed_seed(*parts: object) -> int:
    """Derive one seed from another and what it is for."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8]) >> (64 - _SEED_BITS)


@dataclass(frozen=True, slots=True)
class _Form:
    """What every site fits its pictures to: the model's manifest will say so."""

    size: tuple[int, int] | None
    resize: int | None

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> "_Form":
        size = image_size(str(run.get("image-size", "")))
        return cls(size, int(run.get("resize", 0)) or None)


def _own(name: str, spec: str, form: _Form) -> Site:
    return Site(name, *(_load(spec, split, form) for split in _SPLITS))


@dataclass(frozen=True, slots=True)
class _Dealing:
    """What is dealt out, and how."""

    spec: str
    form: _Form
    partition: Partition
    seed: int


@lru_cache(maxsize=128)
def _dealt(what: _Dealing, number: int, count: int) -> Site:
    train, test = (_load(what.spec, split, what.form) for split in _SPLITS)
    labels = (train.labels, test.labels)
    rows = what.partition.deal(labels, count, what.seed)[number]
    return Site(f"site-{number + 1}", take(train, rows[0]), take(test, rows[1]))


@lru_cache(maxsize=128)
def _load(spec: str, split: Split, form: _Form) -> Dataset:
    """Read it once: in one process a site is called twice a round."""
    return load(spec, split, size=form.size, resize=form.resize)


def _examples(part: Dataset, task: Task) -> Examples:
    return Examples(
        normalise(part.images, task.preprocessing),
        relabelled(part, task.classes),
        None if task.shield is None else Shielding.of(task.shield),
    )


def _proximal(model: ConvMixer, mu: float) -> Penalty | None:
    """FedProx: `mu/2 |w - w_t|^2` (Li et al., arXiv 1812.06127)."""
    if not mu:
        return None
    start = [weight.detach().clone() for weight in model.parameters()]

    def penalty(now: ConvMixer) -> torch.Tensor:
        pairs = zip(now.parameters(), start, strict=True)
        apart = [(weight - before).square().sum() for weight, before in pairs]
        return mu / 2 * torch.stack(apart).sum()

    return penalty

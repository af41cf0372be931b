"""Our own words to Flower's records and back; what a site sends is checked here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy import ndarray

from core.architecture import Architecture
from core.canonical import canonical
from core.datasets import Dataset
from core.errors import ConfigurationError, CorruptFileError
from core.preprocessing import Preprocessing
from core.principal import BlockMoments, moments_of
from core.shield import shield_from
from core.training import Recipe
from parties.model_provider.federated.site import Site, Task
from parties.model_provider.training import PixelSums, sums_of

ARRAYS: Final = "arrays"
CONFIG: Final = "config"
METRICS: Final = "metrics"
SITE: Final = "site"
EXAMPLES: Final = "num-examples"
CPU_SECONDS: Final = "cpu-seconds"
# Of a card whose training wants a high-pass.
MOMENTS: Final = "moments"

_SIZES: Final = tuple(
    field.name for field in fields(Architecture) if field.name != "activation"
)
_DTYPES: Final = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


@dataclass(frozen=True, slots=True)
class Card:
    """What a site says of its images before training; none of them is in it."""

    site: str
    train: int
    test: int
    train_digest: str
    test_digest: str
    size: tuple[int, int, int]
    classes: tuple[str, ...]
    # How many training images of each class.
    counts: tuple[int, ...]
    sums: tuple[PixelSums, ...]
    # Of its blocks; None: no shield asks for them.
    moments: BlockMoments | None = None

    @classmethod
    def of(cls, site: Site, block_side: int = 0) -> "Card":
        """Describe a site; with a `block_side` its blocks' moments, too."""
        height, width, channels = site.train.images.shape[1:]
        return cls(
            site=site.name,
            train=len(site.train),
            test=len(site.test),
            train_digest=site.train.digest,
            test_digest=site.test.digest,
            size=(int(height), int(width), int(channels)),
            classes=site.train.classes,
            counts=_counts(site.train),
            sums=sums_of(site.train.images),
            moments=moments_of(site.train.images, block_side) if block_side else None,
        )


def pack_card(card: Card) -> RecordDict:
    """Write a card as a reply's content."""
    record = ConfigRecord(
        {
            "site": card.site,
            "train": card.train,
            "test": card.test,
            "train-digest": card.train_digest,
            "test-digest": card.test_digest,
            "size": list(card.size),
            "classes": list(card.classes),
            "counts": list(card.counts),
            "sums": [number for channel in card.sums for number in channel],
        }
    )
    if card.moments is None:
        return RecordDict({SITE: record})
    record["blocks"] = card.moments.blocks
    sums = {"sums": card.moments.sums, "products": card.moments.products}
    return RecordDict({SITE: record, MOMENTS: pack_state(sums)})


def read_card(content: RecordDict) -> Card:
    """Read what `pack_card` wrote."""
    found = _fields(content, SITE)
    try:
        height, width, channels = found["size"]
        sums = found["sums"]
        return Card(
            site=str(found["site"]),
            train=int(found["train"]),
            test=int(found["test"]),
            train_digest=str(found["train-digest"]),
            test_digest=str(found["test-digest"]),
            size=(height, width, channels),
            classes=tuple(found["classes"]),
            counts=tuple(found["counts"]),
            sums=tuple(
                PixelSums(*sums[at : at + 3]) for at in range(0, 3 * channels, 3)
            ),
            moments=_moments(content, found),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError("a site's card cannot be read") from error


def _moments(content: RecordDict, found: Mapping[str, Any]) -> BlockMoments | None:
    if MOMENTS not in content.array_records:
        return None
    state = read_state(content)
    sums, products = state["sums"], state["products"]
    if sums.ndim != 1 or products.shape != sums.shape * 2 or found["blocks"] < 1:
        raise CorruptFileError("a site's moments of blocks do not fit each other")
    return BlockMoments(int(found["blocks"]), sums, products)


def pack_task(task: Task) -> ConfigRecord:
    """Write a task as the configuration of a round."""
    p, recipe = task.preprocessing, task.recipe
    return ConfigRecord(
        {
            "architecture": _numbers(task.architecture),
            "size": [p.height, p.width, p.channels],
            "shield": _written(task),
            "activation": task.architecture.activation,
            "mean": list(p.mean),
            "std": list(p.std),
            "classes": list(task.classes),
            "optimiser": task.optimiser,
            **{f"recipe-{f.name}": getattr(recipe, f.name) for f in fields(recipe)},
        }
    )


def read_task(content: RecordDict) -> Task:
    """Read what `pack_task` wrote; a strategy may have added to it."""
    found = _fields(content, CONFIG)
    try:
        numbers = dict(zip(_SIZES, found["architecture"], strict=True))
        architecture = Architecture(**numbers, activation=found["activation"])
        height, width, channels = found["size"]
        mean, std = tuple(found["mean"]), tuple(found["std"])
        preprocessing = Preprocessing(height, width, channels, mean, std)
        return Task(
            architecture=architecture,
            preprocessing=preprocessing,
            classes=tuple(found["classes"]),
            recipe=Recipe(
                **{f.name: found[f"recipe-{f.name}"] for f in fields(Recipe)}
            ),
            optimiser=str(found["optimiser"]),
            proximal_mu=float(found.get("proximal-mu", 0.0)),
            shield=(
                shield_from(json.loads(found["shield"]), preprocessing)
                if found["shield"]
                else None
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError("a round's configuration cannot be read") from error


def _written(task: Task) -> str:
    """The shield as a manifest has it; empty: there is none."""
    return "" if task.shield is None else canonical(task.shield.to_dict()).decode()


def _numbers(architecture: Architecture) -> list[int]:
    return [getattr(architecture, name) for name in _SIZES]


def pack_state(state: Mapping[str, ndarray]) -> ArrayRecord:
    """Write named arrays; each is a copy."""
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in state.items()})


def read_state(content: RecordDict) -> dict[str, ndarray]:
    """Read the arrays of a message, of whatever record holds them."""
    state = {
        name: array.numpy()
        for record in content.array_records.values()
        for name, array in record.items()
    }
    for name, array in state.items():
        if array.dtype not in _DTYPES or not np.isfinite(array).all():
            raise CorruptFileError(f"{name}: expected finite numbers, of a float type")
    return state


def site_name(content: RecordDict) -> str:
    """Whose answer it is."""
    return str(_fields(content, SITE)["site"])


def _fields(content: RecordDict, name: str) -> Mapping[str, Any]:
    if name not in content.config_records:
        raise CorruptFileError(f"a message without its record `{name}`")
    return dict(content.config_records[name])


def _counts(part: Dataset) -> tuple[int, ...]:
    counts = np.bincount(part.labels, minlength=len(part.classes))
    return tuple(int(count) for count in counts)

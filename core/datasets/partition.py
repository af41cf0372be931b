"""How images are dealt out to the sites of a federated training.

`iid`             as evenly as can be, in a random order
`dirichlet:0.3`   each class in shares drawn from a Dirichlet distribution: the smaller
                  the number, the more the sites differ (Hsu, Qi & Brown,
                  arXiv 1909.06335)
`by-organisation` not dealt out at all: each site has its own, and a folder on one
                  machine holds a dataset for each of them
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from numpy.random import Generator, default_rng

from core.datasets.source import Dataset, Split, dataset
from core.errors import ConfigurationError, DataError

Kind = Literal["iid", "dirichlet", "by-organisation"]
Labels = Int64[ndarray, " n"]
Parts = list[Int64[ndarray, " part"]]

# BatchNorm has no variance of one image.
LEAST: Final[Mapping[Split, int]] = {"train": 2, "test": 1}
_DRAWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Partition:
    """A kind, and the concentration of a Dirichlet distribution if it is one."""

    kind: Kind
    alpha: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `iid`, `dirichlet:0.3` or `by-organisation`."""
        kind, _, alpha = text.partition(":")
        if kind == "dirichlet" and (number := _positive(alpha)):
            return cls("dirichlet", number)
        if text == "iid":
            return cls("iid")
        if text == "by-organisation":
            return cls("by-organisation")
        raise ConfigurationError(
            "partition: expected iid, dirichlet:NUMBER or by-organisation,"
            f" got {text!r:.40}"
        )

    def deal(
        self, labels: tuple[Labels, Labels], sites: int, seed: int
    ) -> list[tuple[ndarray, ndarray]]:
        """Return for each site its training and its test images, by position.

        Both splits follow the same shares, so a site is tested on what it has learned.

        Raises:
            DataError: a site would get too few images.
        """
        generator = default_rng(seed)
        if self.kind == "iid":
            parts = [_evenly(each, sites, generator) for each in labels]
            return _checked(list(zip(*parts, strict=True)), self, sites)
        for _ in range(_DRAWS):
            shares = _shares(np.concatenate(labels), sites, self.alpha, generator)
            parts = [_by_shares(each, shares, generator) for each in labels]
            if _enough(dealt := list(zip(*parts, strict=True))):
                return dealt
        return _checked(dealt, self, sites)


def take(whole: Dataset, rows: ndarray) -> Dataset:
    """Make a dataset of some of the images."""
    return dataset(whole.name, whole.images[rows], whole.labels[rows], whole.classes)


def organisations(folder: str | Path) -> dict[str, Path]:
    """Each organisation's dataset: the subfolders and .npz files, in name order.

    Raises:
        DataError: the folder is not there, or holds fewer than two of them.
    """
    path = Path(folder).expanduser()
    entries = sorted(path.iterdir()) if path.is_dir() else []
    found = {
        entry.stem if entry.suffix == ".npz" else entry.name: entry
        for entry in entries
        if not entry.name.startswith(".") and (entry.is_dir() or entry.suffix == ".npz")
    }
    if len(found) < len(("one", "another")):
        raise DataError(
            f"{path}: by-organisation needs a folder with a subfolder or an .npz file"
            " for each of at least two organisations"
        )
    return found


def united(classes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All class names that sites have, in one order: numbers by size, then words."""
    names = {name for each in classes for name in each}
    numbers = sorted((n for n in names if n.isdecimal()), key=int)
    return (*numbers, *sorted(names - {*numbers}))


def relabelled(part: Dataset, classes: Sequence[str]) -> Labels:
    """Number a dataset's labels by the names in `classes`."""
    numbers = np.array([classes.index(name) for name in part.classes], dtype=np.int64)
    return np.take(numbers, part.labels)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _evenly(labels: Labels, sites: int, generator: Generator) -> Parts:
    order = generator.permutation(len(labels)).astype(np.int64)
    return [np.sort(part) for part in np.array_split(order, sites)]


def _shares(
    labels: Labels, sites: int, alpha: float, generator: Generator
) -> Mapping[int, ndarray]:
    return {
        int(label): generator.dirichlet([alpha] * sites) for label in np.unique(labels)
    }


def _by_shares(
    labels: Labels, shares: Mapping[int, ndarray], generator: Generator
) -> Parts:
    """Cut each class, in a random order, at its shares."""
    cut: list[Parts] = []
    for label, share in shares.items():
        where = generator.permutation(np.flatnonzero(labels == label))
        edges = np.rint(np.cumsum(share)[:-1] * len(where)).astype(int)
        cut.append(np.split(where, edges))
    return [np.sort(np.concatenate(parts)) for parts in zip(*cut, strict=True)]


def _enough(dealt: Sequence[tuple[ndarray, ...]]) -> bool:
    least = tuple(LEAST.values())
    return all(
        len(part) >= few
        for parts in dealt
        for part, few in zip(parts, least, strict=True)
    )


def _checked(
    dealt: list[tuple[ndarray, ndarray]], partition: Partition, sites: int
) -> list[tuple[ndarray, ndarray]]:
    if not _enough(dealt):
        raise DataError(
            f"{partition.kind} over {sites} sites leaves one with too few images:"
            " take fewer sites, or a larger number after `dirichlet:`"
        )
    return dealt

"""What the world holds before anybody acts: images, dealt out to their owners.

In a deployment every owner has its pictures already. A simulation takes the test split
of a public dataset and gives each owner its own part; no party sees another's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.datasets import Dataset
from core.errors import DataError

Folder = Callable[[str], Path]


@dataclass(frozen=True)
class Dealt:
    """Which images each owner was given: ranges over the test split, in order."""

    parts: Mapping[str, range]

    @property
    def images(self) -> int:
        """How many images were dealt in all."""
        return sum(len(part) for part in self.parts.values())


def split(count: int, shares: Mapping[str, float]) -> Dealt:
    """Cut `count` images into consecutive parts in proportion to the shares.

    Raises:
        DataError: an owner would get no image.
    """
    total = sum(shares.values())
    edges = np.rint(np.cumsum([0.0, *shares.values()]) / total * count).astype(int)
    parts = {
        owner: range(int(first), int(last))
        for owner, first, last in zip(shares, edges, edges[1:], strict=False)
    }
    if empty := [owner for owner, part in parts.items() if not part]:
        raise DataError(f"{count} images leave none for {empty}")
    return Dealt(parts)


def deal(dataset: Dataset, dealt: Dealt, folder: Folder) -> None:
    """Write each owner's images into the owner's own folder as `images.npz`."""
    for owner, part in dealt.parts.items():
        _write(folder(owner) / "images.npz", dataset, part)


def write_benchmark(dataset: Dataset, dealt: Dealt, path: Path) -> None:
    """Write all dealt images, in order, for the provider's plain answers.

    This is the simulation's referee: it is how anyone can see that the keyed answers
    equal the plain ones. In a deployment no provider ever gets an owner's picture.
    """
    _write(path, dataset, range(dealt.images))


def _write(path: Path, dataset: Dataset, part: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = slice(part.start, part.stop)
    with path.open("wb") as file:
        np.savez(file, images=dataset.images[rows], labels=dataset.labels[rows])

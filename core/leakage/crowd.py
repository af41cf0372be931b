"""An attacker's public pictures in numbers, for attacks that learn from them."""

from dataclasses import dataclass, field

import numpy as np

from core.errors import ShapeError
from core.leakage.fidelity import Pictures


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """Public pictures [n, c, h, w] from 0 to 1, and labels [n] if they have any.

    A label is the number of a model's output, not of a dataset's class.
    """

    pictures: Pictures = field(repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != self.pictures.shape[:1]:
            raise ShapeError(
                f"{len(self.pictures)} pictures, but labels of {self.labels.shape}"
            )

"""What an inference server has of a model, but for the embedding: all that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from core.architecture import Architecture


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """The backbone's tensors, with the embedding's bias, and the head's, by name."""

    architecture: Architecture
    backbone: Mapping[str, np.ndarray] = field(repr=False)

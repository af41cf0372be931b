"""scikit-learn's handwritten digits: small, real, and in its wheel."""

import numpy as np

from core.datasets.source import Dataset, Split, dataset, held_out
from core.errors import DataError


def load_digits(split: Split) -> Dataset:
    """Load 8x8 grey digits: the last fifth of each class is the test split."""
    try:
        from sklearn.datasets import load_digits as fetch  # noqa: PLC0415 - optional
    except ImportError as error:
        raise DataError("`digits` needs scikit-learn: pip install it") from error
    images, labels = fetch(return_X_y=True)
    chosen = held_out(labels) == (split == "test")
    grey = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    classes = tuple(str(digit) for digit in range(10))
    return dataset("digits", grey[chosen], labels[chosen], classes)

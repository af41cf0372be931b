"""Real pictures, small: CIFAR-10 is not in every cache, scikit-learn's photos are."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from core.leakage.fidelity import Pictures
from core.leakage.schemes.block_key import Pixels

SIDE, CHANNELS = 16, 3


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """16x16 cuts of two photographs at half their size: 520 of them."""
    cuts = [cut for photo in load_sample_images().images for cut in _cuts(photo)]
    stacked = np.stack(cuts).transpose(0, 3, 1, 2) / 255
    return stacked[np.random.default_rng(0).permutation(len(stacked))]


@pytest.fixture(scope="session")
def coordinates() -> Pixels:
    return Pixels(2, CHANNELS)


def _cuts(photo: np.ndarray) -> list[np.ndarray]:
    size = (photo.shape[1] // 2, photo.shape[0] // 2)
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
    rows, columns = small.shape[0] // SIDE, small.shape[1] // SIDE
    return [
        small[SIDE * i : SIDE * (i + 1), SIDE * j : SIDE * (j + 1)]
        for i in range(rows)
        for j in range(columns)
    ]

"""Small sites for the tests: some of scikit-learn's digits, and a tiny network."""

from pathlib import Path
from typing import Any

import numpy as np

from core.datasets import load
from parties.model_provider.federated.plan import FederatedPlan


def few_digits(path: Path, train: int = 90, test: int = 30) -> Path:
    """Write an .npz with some of the digits."""
    learn, unseen = load("digits", "train"), load("digits", "test")
    np.savez(
        path,
        train_images=learn.images[:train],
        train_labels=learn.labels[:train],
        test_images=unseen.images[:test],
        test_labels=unseen.labels[:test],
        classes=np.array(learn.classes),
    )
    return path


def small_plan(data: Path | str, **changes: Any) -> FederatedPlan:
    """Three sites, two rounds, a network of one block."""
    small: dict[str, Any] = {
        "name": "digits",
        "data": str(data),
        "sites": 3,
        "rounds": 2,
        "hidden": 6,
        "depth": 1,
        "kernel_size": 3,
        "patch_size": 2,
        "batch": 15,
        "pad": 1,
        "flip": False,
        "seed": 5,
    }
    return FederatedPlan(**{**small, **changes})

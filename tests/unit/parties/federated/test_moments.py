"""The mean of the sites' moments is that of all images; that of variances is not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parties.model_provider.federated.moments import (
    from_moments,
    is_statistic,
    to_moments,
    without_counts,
)

MEAN, VARIANCE = "norm.running_mean", "norm.running_var"


def sites(far_apart: float) -> list[np.ndarray]:
    """Numbers of three sites of unlike sizes, of four channels."""
    draws = np.random.default_rng(2)
    return [
        draws.normal(far_apart * place, 1 + place, (count, 4))
        for place, count in enumerate((40, 300, 7))
    ]


def measured(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {MEAN: numbers.mean(0), VARIANCE: numbers.var(0)}


def sizes(parts: list[Any]) -> list[int]:
    return [len(part) for part in parts]


def trimmed(numbers: np.ndarray, axis: int) -> np.ndarray:
    middle: np.ndarray = np.sort(numbers, axis)[1:-1].mean(axis)
    return middle


def averaged(states: list[dict[str, np.ndarray]], weights: list[int]) -> dict[str, Any]:
    return {
        name: np.average([state[name] for state in states], axis=0, weights=weights)
        for name in states[0]
    }


@pytest.mark.parametrize("far_apart", [0.0, 3.0, 1000.0])
def test_averaged_moments_are_those_of_all_numbers(far_apart: float) -> None:
    """The oracle: NumPy's mean and variance of the numbers in one pile."""
    parts = sites(far_apart)
    pile = np.concatenate(parts)
    moments = averaged(
        [to_moments(measured(p)) for p in parts], [len(p) for p in parts]
    )

    found = from_moments(moments)

    np.testing.assert_allclose(found[MEAN], pile.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[VARIANCE], pile.var(0), rtol=1e-6)


def test_averaged_variances_are_not_those_of_all_numbers() -> None:
    """So that the test above has a reason: the obvious way misses by far."""
    parts = sites(far_apart=3.0)
    plain = averaged([measured(p) for p in parts], sizes(parts))

    assert (plain[VARIANCE] < 0.85 * np.concatenate(parts).var(0)).all()


def test_they_are_what_torch_measures_on_all_images() -> None:
    """One look at all images with momentum 1, against one look at each site.

    torch keeps the variance of a sample, n/(n-1) of what its forward pass divides by.
    """
    parts = [torch.tensor(p).float()[:, :, None, None] for p in sites(far_apart=3.0)]

    def looked_at(images: torch.Tensor) -> dict[str, np.ndarray]:
        norm = nn.BatchNorm2d(4, momentum=1.0).train()
        norm(images)
        state = {f"norm.{n}": t.numpy() for n, t in norm.state_dict().items()}
        state[VARIANCE] *= (len(images) - 1) / len(images)
        return without_counts(state)

    whole = looked_at(torch.cat(parts))
    moments = averaged(
        [to_moments(looked_at(p)) for p in parts], [len(p) for p in parts]
    )

    for name, array in from_moments(moments).items():
        np.testing.assert_allclose(array, whole[name], rtol=2e-5)


@pytest.mark.parametrize("middle", [np.median, trimmed])
@pytest.mark.parametrize("count", [4, 5])
def test_robust_moments_make_no_negative_variance(middle: Any, count: int) -> None:
    """Because E[x^2] >= mean^2 at each site (docs/adr/0022)."""
    draws = np.random.default_rng(0)
    means = draws.standard_normal((count, 1000)) * 5
    seconds = means**2 + draws.random((count, 1000)) * 1e-3

    assert (middle(seconds, axis=0) - middle(means, axis=0) ** 2).min() >= 0


def test_weights_stay_as_they_are() -> None:
    state = {"head.weight": np.ones((2, 3), np.float32), **measured(np.eye(4))}
    back = from_moments(to_moments(state))

    assert [is_statistic(name) for name in state] == [False, True, True]
    for name, array in back.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, state[name], atol=1e-7)

"""Pictures are told from their negatives; noise and its negative are not."""

import numpy as np
import pytest

from core.leakage.fidelity import Pictures
from core.leakage.lifelike import Lifelike, _fitted, negative


def test_pictures_are_told_from_their_negatives(pictures: Pictures) -> None:
    """Ten at a time: pictures that the score was not fitted on."""
    lifelike = Lifelike(pictures[:320], [negative])

    groups = pictures[320:].reshape(-1, 10, *pictures.shape[1:])
    chosen = [lifelike.choose([negative(group), group]) for group in groups]
    assert np.mean(chosen) > 0.9


def test_noise_is_no_more_like_a_picture_than_its_negative(pictures: Pictures) -> None:
    """The assumption taken away: grey levels that are as often light as dark."""
    noise = np.random.default_rng(0).uniform(0, 1, (400, 3, 16, 16))
    lifelike = Lifelike(noise[:200], [negative])

    chosen = [lifelike.choose([negative(one), one]) for one in noise[200:, None]]
    assert 0.35 < np.mean(chosen) < 0.65


def test_the_weights_are_where_the_slope_is_nothing() -> None:
    """Against the derivative of the penalised likelihood, taken by differences."""
    against = np.random.default_rng(0).standard_normal((3, 40, 5)) + 0.3

    def penalised(weights: np.ndarray) -> float:
        odds = np.exp(-against @ weights).sum(axis=0)
        return float(-np.log1p(odds).sum() - 15 * weights @ weights)

    found = _fitted(against)
    slopes = [
        (penalised(found + step) - penalised(found - step)) / 2e-5
        for step in 1e-5 * np.eye(5)
    ]

    assert slopes == pytest.approx(np.zeros(5), abs=1e-4)

"""The last choice of an attack: which of a few alternatives looks like a picture.

An attack by moments leaves it open whether all it found is a negative, or which of two
hues is which. Among public pictures it is known: a linear score of simple numbers
(how often each light and colour occurs, what is bright where, how edges are skewed) is
fitted so that it tells them from their alternatives, as a conditional logit (McFadden
1974, in Zarembka, Frontiers in Econometrics, 105). Scores of pictures that were seen
under one key are added.

Assumes: public pictures of the same kind. Costs: below a second to fit on 1,000
pictures; a choice costs a few histograms.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from core.leakage.fidelity import Pictures

Alternative = Callable[[Pictures], Pictures]
Numbers = Float[np.ndarray, "n numbers"]

_BINS: Final = 16
_THUMBNAIL: Final = 4
_STEPS: Final = 12
# Of the features' own deviation: the strength of a Gaussian prior on weights.
_RIDGE: Final = 30.0


def negative(pictures: Pictures) -> Pictures:
    """What a key that makes all numbers negative shows."""
    return 1 - pictures


class Lifelike:
    """Scores pictures so that public ones win over each of their alternatives."""

    def __init__(self, public: Pictures, alternatives: Sequence[Alternative]) -> None:
        own = _numbers(public)
        against = own - np.stack([_numbers(each(public)) for each in alternatives])
        self._scale = np.sqrt((against**2).mean(axis=(0, 1))) + 1e-9
        self._weights = _fitted(against / self._scale)

    def score(self, pictures: Pictures) -> float:
        """The higher, the more like pictures; a sum over all of them."""
        return float((_numbers(pictures) / self._scale @ self._weights).sum())

    def choose(self, candidates: Sequence[Pictures]) -> int:
        """Which of several versions of the same pictures scores best."""
        return int(np.argmax([self.score(each) for each in candidates]))


def _fitted(against: Float[np.ndarray, "others n numbers"]) -> np.ndarray:
    """Newton's steps for the weights under which each picture beats its alternatives.

    The likelihood of one is `1 / (1 + sum exp(-w . (own - other)))`.
    """
    weights = np.zeros(against.shape[-1])
    for _ in range(_STEPS):
        odds = np.exp(-np.clip(against @ weights, -50, 50))
        share = odds / (1 + odds.sum(axis=0))
        pulls = np.einsum("on,onf->nf", share, against)
        slope = pulls.sum(axis=0) - _RIDGE * weights
        bend = np.einsum("on,onf,ong->fg", share, against, against, optimize=True)
        bend += _RIDGE * np.eye(len(weights)) - pulls.T @ pulls
        weights = weights + np.linalg.solve(bend, slope)
    return weights


def _numbers(pictures: Pictures) -> Numbers:
    light = pictures.mean(axis=1)
    shares = [_histogram(each) for each in (light, *np.moveaxis(pictures, 1, 0))]
    differences = [
        _histogram((pictures[:, at] - light) * 2 + 0.5)
        for at in range(pictures.shape[1])
    ]
    return np.concatenate(
        [*shares, *differences, _thumbnail(pictures), _edges(light)], axis=1
    )


def _histogram(values: Float[np.ndarray, "n h w"]) -> Numbers:
    steps = np.clip(np.floor(values * _BINS), -1, _BINS).astype(np.int64) + 1
    width = _BINS + 2
    places = steps.reshape(len(values), -1) + width * np.arange(len(values))[:, None]
    counts = np.bincount(places.ravel(), minlength=width * len(values))
    return counts.reshape(len(values), width) / places.shape[1]


def _thumbnail(pictures: Pictures) -> Numbers:
    count = min(_THUMBNAIL, *pictures.shape[2:])
    rows = np.array_split(pictures, count, axis=2)
    cut = [c.mean(axis=(2, 3)) for r in rows for c in np.array_split(r, count, axis=3)]
    return np.concatenate(cut, axis=1)


def _edges(light: Float[np.ndarray, "n h w"]) -> Numbers:
    """Skewness of light and of its bends, and whether light places have more of them.

    A bend is a pixel less the mean of its four neighbours.
    """
    around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1]
    around = around + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
    inside = light[:, 1:-1, 1:-1]
    bends = inside - around / 4
    spread = bends.std(axis=(1, 2)) + 1e-3
    level = light - light.mean(axis=(1, 2), keepdims=True)
    return np.stack(
        [
            (bends**3).mean(axis=(1, 2)) / spread**3,
            (level**3).mean(axis=(1, 2)),
            (np.abs(bends) * (inside - 0.5)).mean(axis=(1, 2)) / spread,
        ],
        axis=1,
    )

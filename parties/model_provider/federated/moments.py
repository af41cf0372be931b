"""What BatchNorm remembers, in a form whose mean is the right one (docs/adr/0022).

The variance of all images is not the mean of the sites' variances: it lacks how far
the sites' means lie apart. Second moments, `E[x^2] = var + mean^2`, have no such gap:
their weighted mean is that of all images. So a site sends those, and the server turns
the mean of them back: `var = E[x^2] - E[x]^2`.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy import ndarray

Arrays = Mapping[str, ndarray]

_MEAN: Final = ".running_mean"
_VARIANCE: Final = ".running_var"
COUNT: Final = ".num_batches_tracked"


def is_statistic(name: str) -> bool:
    """Whether BatchNorm measures it, and no gradient changes it."""
    return name.endswith((_MEAN, _VARIANCE))


def without_counts(state: Arrays) -> dict[str, ndarray]:
    """Leave out the integers: how many batches there were is summed, not averaged."""
    return {name: array for name, array in state.items() if not name.endswith(COUNT)}


def to_moments(state: Arrays) -> dict[str, ndarray]:
    """Put E[x^2] in the place of each variance; both moments become float64.

    In float32 the difference of two large squares would be noise.
    """
    moments = dict(state)
    for name in filter(is_statistic, state):
        moments[name] = state[name].astype(np.float64)
    for name in _variances(state):
        moments[name] = moments[name] + moments[_mean_of(name)] ** 2
    return moments


def from_moments(moments: Arrays) -> dict[str, ndarray]:
    """Turn means of moments back into variances, and all of it into float32."""
    state = dict(moments)
    for name in _variances(moments):
        mean = moments[_mean_of(name)]
        # Never below 0 but by rounding (docs/adr/0022).
        state[name] = np.maximum(moments[name] - mean**2, 0.0)
    return {name: np.asarray(array, np.float32) for name, array in state.items()}


def _variances(state: Arrays) -> list[str]:
    return [name for name in state if name.endswith(_VARIANCE)]


def _mean_of(variance: str) -> str:
    return variance.removesuffix(_VARIANCE) + _MEAN

"""The cosine basis, against SciPy's transform."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.fft import dctn

from core.cosines import cosines


@pytest.mark.parametrize(("side", "channels"), [(4, 3), (7, 3), (1, 1), (2, 5)])
def test_the_rows_are_those_of_the_cosine_transform(side: int, channels: int) -> None:
    """In some order; an oracle of its own: SciPy transforms every unit vector."""
    rows = cosines(side, channels)
    units = np.eye(len(rows)).reshape(-1, channels, side, side)
    expected = dctn(units, axes=(1, 2, 3), norm="ortho").reshape(len(rows), -1).T

    assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-11)
    # Each row is one of SciPy's, and none twice.
    assert_allclose(np.sort(np.abs(rows @ expected.T), axis=1)[:, -1], 1, atol=1e-11)
    assert_allclose(np.abs(rows @ expected.T).sum(0), 1, atol=1e-9)


def test_what_is_even_over_a_block_comes_first_and_the_finest_last() -> None:
    rows = cosines(4, 3).reshape(48, 3, 4, 4)
    turns = (np.diff(np.sign(rows), axis=-1) != 0).any((1, 2)).sum(-1)
    falls = (np.diff(np.sign(rows), axis=-2) != 0).any((1, 3)).sum(-1)
    fineness = turns**2 + falls**2

    assert (np.ptp(rows[:3], axis=(2, 3)) < 1e-11).all()
    assert_allclose(rows[0], rows[0, 0, 0, 0], atol=1e-11)
    assert (np.diff(fineness) >= 0).all()

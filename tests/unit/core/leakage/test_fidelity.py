"""PSNR and SSIM against their formulas, written out."""

import numpy as np
import pytest

from core.errors import NonFiniteError, ShapeError
from core.leakage.fidelity import MAX_PSNR_DB, WINDOW, Pictures, fidelity, psnr, ssim


def test_psnr_is_that_of_the_definition() -> None:
    """An error of 0.1 everywhere is 20 dB."""
    black = np.zeros((2, 3, 8, 8))

    assert psnr(black, black + 0.1) == pytest.approx([20.0, 20.0])
    assert psnr(black, black).tolist() == [MAX_PSNR_DB, MAX_PSNR_DB]


def test_ssim_is_the_papers_formula_window_by_window(pictures: Pictures) -> None:
    """The slow, obvious way: every window on its own, by NumPy's own statistics."""
    original, recovered = pictures[:3], pictures[3:6]

    slowly = [_ssim_of(a, b) for a, b in zip(original, recovered, strict=True)]

    assert ssim(original, recovered) == pytest.approx(slowly, abs=1e-12)


def _ssim_of(a: np.ndarray, b: np.ndarray) -> float:
    values = []
    for x, y in zip(a, b, strict=True):
        for i in range(x.shape[0] - WINDOW + 1):
            for j in range(x.shape[1] - WINDOW + 1):
                u = x[i : i + WINDOW, j : j + WINDOW].ravel()
                v = y[i : i + WINDOW, j : j + WINDOW].ravel()
                covariance = np.cov(u, v)
                c1, c2 = 0.01**2, 0.03**2
                values.append(
                    (2 * u.mean() * v.mean() + c1)
                    * (2 * covariance[0, 1] + c2)
                    / (u.mean() ** 2 + v.mean() ** 2 + c1)
                    / (covariance[0, 0] + covariance[1, 1] + c2)
                )
    return float(np.mean(values))


def test_equal_pictures_have_an_ssim_of_one(pictures: Pictures) -> None:
    assert ssim(pictures[:4], pictures[:4]) == pytest.approx(np.ones(4))


def test_the_range_holds_nine_pictures_in_ten(pictures: Pictures) -> None:
    measured = fidelity(pictures[:200], pictures[200:400])
    each = ssim(pictures[:200], pictures[200:400])

    inside = (each >= measured.ssim_low) & (each <= measured.ssim_high)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert measured.ssim_low < measured.ssim < measured.ssim_high


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((2, 3, 8, 8), (2, 3, 8, 9)),
        ((0, 3, 8, 8), (0, 3, 8, 8)),
        ((3, 8, 8), (3, 8, 8)),
    ],
)
def test_what_cannot_be_compared_is_refused(
    shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError):
        psnr(np.zeros(shape), np.zeros(other))


def test_pictures_smaller_than_a_window_have_no_ssim() -> None:
    with pytest.raises(ShapeError, match="7x7"):
        ssim(np.zeros((1, 1, 6, 8)), np.zeros((1, 1, 6, 8)))


def test_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError):
        psnr(np.zeros((1, 1, 8, 8)), np.full((1, 1, 8, 8), np.nan))

"""How close a recovered picture is to the original: PSNR, SSIM, and their spread.

SSIM is Wang, Bovik, Sheikh & Simoncelli's (2004, IEEE TIP 13:600), K1 = 0.01 and
K2 = 0.03, for each channel, in a sliding window of 7x7 equal weights with the sample
covariance: scikit-image's default, so that figures compare with the literature's. The
paper's own window is a Gaussian of 11x11, which leaves little of a 32x32 picture.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from core.errors import NonFiniteError, ShapeError

Pictures = Float[np.ndarray, "n c h w"]
PerPicture = Float[np.ndarray, " n"]

# Two equal pictures: their PSNR is infinite, and a mean needs a number.
MAX_PSNR_DB: Final = 100.0
WINDOW: Final = 7
_C1: Final = 0.01**2
_C2: Final = 0.03**2
# Of the pictures, a tenth lies outside: half below, half above.
_LOW, _HIGH = 5, 95


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over pictures; `ssim_low` to `ssim_high` holds nine in ten of them."""

    images: int
    psnr: float
    ssim: float
    ssim_low: float
    ssim_high: float


def fidelity(original: Pictures, recovered: Pictures) -> Fidelity:
    """Compare pictures of 0 to 1; what is recovered outside that range is clipped."""
    decibels, likeness = psnr(original, recovered), ssim(original, recovered)
    low, high = np.percentile(likeness, (_LOW, _HIGH))
    return Fidelity(
        len(original),
        float(decibels.mean()),
        float(likeness.mean()),
        float(low),
        float(high),
    )


def psnr(original: Pictures, recovered: Pictures) -> PerPicture:
    """Peak signal-to-noise ratio of each picture in dB, at most `MAX_PSNR_DB`."""
    a, b = _pair(original, recovered)
    error = ((a - b) ** 2).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, 10 ** (-MAX_PSNR_DB / 10)))


def ssim(original: Pictures, recovered: Pictures) -> PerPicture:
    """Structural similarity of each picture: 1 is equal; the mean over channels."""
    a, b = _pair(original, recovered)
    if min(a.shape[2:]) < WINDOW:
        raise ShapeError(f"SSIM needs {WINDOW}x{WINDOW} pixels, got {a.shape[2:]}")
    mean_a, mean_b = _means(a), _means(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_a = unbiased * (_means(a * a) - mean_a**2)
    variance_b = unbiased * (_means(b * b) - mean_b**2)
    covariance = unbiased * (_means(a * b) - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _means(pictures: Pictures) -> Float[np.ndarray, "n c y x"]:
    """The mean of every window that lies wholly inside."""
    rows = sliding_window_view(pictures, WINDOW, axis=2).mean(axis=-1)
    return sliding_window_view(rows, WINDOW, axis=3).mean(axis=-1)


def _pair(original: Pictures, recovered: Pictures) -> tuple[Pictures, Pictures]:
    if original.shape != recovered.shape or original.ndim != len("nchw"):
        raise ShapeError(
            f"expected two equal [n, c, h, w], got {original.shape}, {recovered.shape}"
        )
    if not len(original):
        raise ShapeError("expected pictures, got none")
    if not (np.isfinite(original).all() and np.isfinite(recovered).all()):
        raise NonFiniteError("the pictures hold NaN or infinity")
    return original.astype(np.float64), np.clip(recovered, 0, 1, dtype=np.float64)

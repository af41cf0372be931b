"""BatchNorm as it answers: `x -> scale x + shift`, in float64 until it is rounded.

`scale = weight / sqrt(variance + eps)` and `shift = bias - mean scale` (Ioffe & Szegedy
2015, arXiv 1502.03167). What follows it linearly, place by place, can take it in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from core.errors import CorruptFileError

# What torch adds to a variance; a release does not write it.
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """One number to multiply each channel with, and one to add."""

    scale: Float64[np.ndarray, " hidden"]
    shift: Float64[np.ndarray, " hidden"]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A map of channels to channels, and what is added."""

    weight: Float64[np.ndarray, "out hidden"]
    bias: Float64[np.ndarray, " out"]

    def after_shift(self, shift: Float64[np.ndarray, " hidden"]) -> "Linear":
        """`W (x + t) + b = W x + (W t + b)`."""
        return Linear(self.weight, self.weight @ shift + self.bias)

    def after(self, affine: Affine) -> "Linear":
        """`W (s x + t) + b = (W s) x + (W t + b)`."""
        shifted = self.after_shift(affine.shift)
        return Linear(self.weight * affine.scale, shifted.bias)


def affine(tensors: Mapping[str, np.ndarray], norm: str) -> Affine:
    """Read a BatchNorm. Raises `CorruptFileError` for a negative variance."""
    weight, bias, mean, variance = (
        tensors[f"{norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if not (variance >= 0).all():
        raise CorruptFileError(f"{norm}.running_var: expected variances from 0")
    scale = weight / np.sqrt(variance + _EPSILON)
    return Affine(scale, bias - mean * scale)


def linear(tensors: Mapping[str, np.ndarray], layer: str) -> Linear:
    """Read a classifier or a convolution of one place."""
    weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    return Linear(flat, bias.astype(np.float64))


def rounded(numbers: np.ndarray, name: str) -> Float32[np.ndarray, "..."]:
    """Round to float32, once. Raises `CorruptFileError` if it is not finite then."""
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    if not np.isfinite(found).all():
        raise CorruptFileError(f"{name}: expected finite numbers")
    return np.ascontiguousarray(found)

"""Which tensors a backbone has, by the names that `core.convmixer` gives them.

Without torch, so that a server can check a release that only NumPy has read.
"""

from collections.abc import Mapping
from math import prod

import numpy as np

from core.architecture import Architecture
from core.errors import CorruptFileError

EMBEDDING_BIAS = "embedding.bias"
FIRST_NORM = "backbone.1"
HEAD = "head"
# Torch counts the batches of training; nothing is computed with it.
_COUNT = "num_batches_tracked"


def depthwise(block: int, architecture: Architecture) -> str:
    """Name the convolution over places; an even kernel stands behind its padding."""
    inner = "" if architecture.kernel_size % 2 else ".1"
    return f"{_block(block)}.0.fn.0{inner}"


def inner_norm(block: int) -> str:
    """Name the BatchNorm within the residual branch."""
    return f"{_block(block)}.0.fn.2"


def pointwise(block: int) -> str:
    """Name the convolution over channels."""
    return f"{_block(block)}.1"


def outer_norm(block: int) -> str:
    """Name the BatchNorm that ends a block."""
    return f"{_block(block)}.3"


def require_fit(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise `CorruptFileError` unless these are the architecture's backbone."""
    expected = _expected(architecture)
    got = {name: f"{t.dtype} {tuple(t.shape)}" for name, t in tensors.items()}
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            raise CorruptFileError(
                f"{name} does not fit the architecture: "
                f"expected {expected.get(name)}, got {got.get(name)}"
            )


def drawn(architecture: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Draw a backbone that fits, to measure with: it knows nothing."""
    rng = np.random.default_rng(seed)
    return {
        name: _drawn(name, sizes, rng) for name, sizes in _sizes(architecture).items()
    }


def _drawn(name: str, sizes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith(_COUNT):
        return np.zeros(sizes, np.int64)
    is_scale = name.endswith(".weight") and len(sizes) == 1
    if is_scale or name.endswith(".running_var"):
        return rng.uniform(0.5, 1.5, sizes).astype(np.float32)
    deviation = prod(sizes[1:]) ** -0.5
    return rng.normal(0, deviation, sizes).astype(np.float32)


def _expected(architecture: Architecture) -> dict[str, str]:
    return {
        name: f"{'int64' if name.endswith(_COUNT) else 'float32'} {sizes}"
        for name, sizes in _sizes(architecture).items()
    }


def _sizes(a: Architecture) -> dict[str, tuple[int, ...]]:
    found = {EMBEDDING_BIAS: (a.hidden,), **_norm(FIRST_NORM, a.hidden)}
    for block in range(a.depth):
        found |= _layer(depthwise(block, a), a.hidden, 1, a.kernel_size, a.kernel_size)
        found |= _norm(inner_norm(block), a.hidden)
        found |= _layer(pointwise(block), a.hidden, a.hidden, 1, 1)
        found |= _norm(outer_norm(block), a.hidden)
    return found | _layer(HEAD, a.classes, a.hidden)


def _layer(name: str, *sizes: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": sizes, f"{name}.bias": sizes[:1]}


def _norm(name: str, hidden: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {
        **{f"{name}.{part}": (hidden,) for part in parts},
        f"{name}.{_COUNT}": (),
    }


def _block(number: int) -> str:
    # Before the blocks stand the first activation and its BatchNorm.
    return f"backbone.{number + 2}"

"""How encrypted blocks travel: as float32, as float16, or as one byte a number.

Names are the Open Inference Protocol's. A byte's step depends on the model alone, never
on a picture: a step that followed the numbers would tell of them, and bytes of two
requests could not be compared.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float32

from core.errors import DtypeError
from core.preprocessing import Preprocessing
from core.shield import Shield
from core.wire import (
    MAX_TENSOR_BYTES,
    Buffer,
    require_finite,
    require_size,
    to_bytes,
)

FP32: Final = "FP32"
FP16: Final = "FP16"
UINT8: Final = "UINT8"

# Bytes a number.
WIDTHS: Final[Mapping[str, int]] = MappingProxyType({FP32: 4, FP16: 2, UINT8: 1})
# What people write in settings and on the command line.
DATATYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"float32": FP32, "float16": FP16, "uint8": UINT8}
)

_ZERO: Final = 128
_LARGEST: Final = 127
_DEVIATIONS: Final = 3.0


def uint8_step(
    preprocessing: Preprocessing, dimension: int, shield: Shield | None = None
) -> float:
    """How much one byte value is: `step = min(3, sqrt(D)) r / 127`.

    `r = sqrt(mean over channels of (max(m, 1 - m) / s)^2)` is the largest root mean
    square that a normalised block can have, with `m` and `s` the manifest's mean and
    deviation of a channel. Under a random orthogonal `A` a coordinate of `A x` has the
    deviation of `x`'s root mean square, at most `r`; so even of the most extreme block
    about 3 in 1000 numbers are clipped, and of ordinary ones next to none. No
    coordinate is larger than `sqrt(D) r`.

    What a shield leaves is a block of `dimension` numbers that is no longer than the
    picture's; its noise adds to the mean square what it has on average.
    """
    p = preprocessing
    deviations = (0.0,) * p.channels if shield is None else shield.deviations
    squares = [
        (max(mean, 1 - mean) / std) ** 2 + deviation**2
        for mean, std, deviation in zip(p.mean, p.std, deviations, strict=True)
    ]
    r = math.sqrt(sum(squares) / len(squares))
    if shield is not None:
        whole = shield.channels * shield.patch_size**2
        r *= math.sqrt(whole / shield.outputs)
    return min(_DEVIATIONS, math.sqrt(dimension)) * r / _LARGEST


def encode(blocks: Float32[np.ndarray, "..."], datatype: str, step: float) -> bytes:
    """Pack blocks as raw little-endian bytes, row-major.

    UINT8: the byte of a number `y` is `y / step`, rounded, plus 128, clipped to 0..255.
    `step` is not used for the other two.
    """
    if datatype == FP32:
        return to_bytes(blocks)
    if blocks.dtype != np.float32:
        raise DtypeError(f"expected float32, got {blocks.dtype}")
    require_finite(blocks)
    if datatype == FP16:
        # A number too large for it becomes infinity, and is refused below.
        with np.errstate(over="ignore"):
            halves = blocks.astype("<f2")
        require_finite(halves)
        return halves.tobytes()
    require_known(datatype)
    scaled = blocks * np.float32(1 / step)
    scaled += np.float32(_ZERO)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    return scaled.astype(np.uint8).tobytes()


def decode(
    data: Buffer,
    shape: Sequence[int],
    datatype: str,
    step: float,
    *,
    max_bytes: int = MAX_TENSOR_BYTES,
) -> Float32[np.ndarray, "..."]:
    """Unpack what `encode` packed, as read-only float32; float32 is a view of `data`.

    Everything is checked before a number is believed. `max_bytes` bounds what is
    received and what it becomes.
    """
    require_known(datatype)
    require_size(data, shape, WIDTHS[datatype], max_bytes)
    received = np.frombuffer(data, dtype=_dtype(datatype)).reshape(tuple(shape))
    if datatype == UINT8:
        numbers = received.astype(np.float32)
        numbers -= np.float32(_ZERO)
        numbers *= np.float32(step)
    else:
        require_finite(received)
        numbers = received.astype("<f4", copy=False)
    numbers.flags.writeable = False
    return numbers


def require_known(datatype: str) -> None:
    """Raise `DtypeError` unless blocks may travel as this datatype."""
    if datatype not in WIDTHS:
        raise DtypeError(f"expected {', '.join(WIDTHS)}, got {datatype[:16]!r}")


def _dtype(datatype: str) -> np.dtype:
    return np.dtype({FP32: "<f4", FP16: "<f2", UINT8: "u1"}[datatype])

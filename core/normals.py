"""Normal numbers out of random bytes, to be used once and never made again.

Their bytes come from the operating system, and none from a generator that computes: who
knows a picture and the key sees the noise of its request, and must not get from one
request's noise to another's. The last bits differ between processors.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float32

# Gives so many random bytes: `os.urandom`, but in tests.
Entropy = Callable[[int], bytes]

_UNIT: Final = np.float32(2.0**-32)
_TURN: Final = np.float32(2 * math.pi * 2.0**-32)


def normals(images: int, numbers: int, entropy: Entropy) -> Float32[np.ndarray, "n m"]:
    """Draw `numbers` independent normal numbers for each image (Box & Muller 1958).

    Each image takes its own bytes, one after the other: 4 a number, of an even number
    of them. So it does not matter how many images are drawn for at once. No number is
    further from 0 than 6.8, which one in 10^11 would be.
    """
    pairs = -(-numbers // 2)
    raw = np.frombuffer(entropy(bytes_for(images, numbers)), dtype="<u4")
    halves = raw.reshape(images, 2, pairs).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * np.log((halves[:, 0] + np.float32(0.5)) * _UNIT))
    angle = halves[:, 1] * _TURN
    drawn = np.empty((images, 2 * pairs), dtype=np.float32)
    np.multiply(radius, np.cos(angle), out=drawn[:, :pairs])
    np.multiply(radius, np.sin(angle), out=drawn[:, pairs:])
    return drawn[:, :numbers]


def bytes_for(images: int, numbers: int) -> int:
    """How many random bytes `normals` takes."""
    return images * 8 * -(-numbers // 2)

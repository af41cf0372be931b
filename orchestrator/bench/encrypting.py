"""What encrypting costs an owner, beside the one product that it cannot do without."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from core.keys import derive_key
from core.orthogonal import SEED_BYTES
from core.pixels import PixelKey
from core.preprocessing import Preprocessing
from orchestrator.bench.statistics import spread

IMAGES: Final = (1, 32, 1000)
_SIDE: Final = 32
_CHANNELS: Final = 3
_HALF: Final = (0.5, 0.5, 0.5)


def measure_encrypting(patch: int, rounds: int) -> list[dict[str, Any]]:
    """Encrypt images of 32 x 32, in turns with a bare product of the same shape.

    The product is `A` times the blocks, as float32, laid out already. One thread: of
    several owners on a machine none has more.
    """
    folded = PixelKey.of(
        _key(patch), Preprocessing(_SIDE, _SIDE, _CHANNELS, _HALF, _HALF)
    )
    with threadpool_limits(1, user_api="blas"):
        return [_measured(folded, images, rounds) for images in IMAGES]


def _measured(folded: PixelKey, images: int, rounds: int) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (images, _SIDE, _SIDE, _CHANNELS), np.uint8)
    blocks = folded.encrypt(pixels)
    flat = blocks.reshape(images, -1, blocks.shape[-1])
    encrypting, multiplying = _times(
        partial(folded.encrypt, pixels), partial(np.matmul, flat, folded.matrix), rounds
    )
    ratio = spread([a / b for a, b in zip(encrypting, multiplying, strict=True)])
    return {
        "images": images,
        "encrypt_ms_an_image": round(1000 * spread(encrypting).median / images, 4),
        "product_ms_an_image": round(1000 * spread(multiplying).median / images, 4),
        "over_product": round(ratio.median, 3),
        "least_to_most": [round(ratio.least, 3), round(ratio.most, 3)],
    }


def _times(
    one: Callable[[], Any], other: Callable[[], Any], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of each, in turns; a round repeats each for some milliseconds."""
    repeats = max(1, round(0.01 / max(_seconds(one, 3), 1e-6)))
    pairs = [(_seconds(one, repeats), _seconds(other, repeats)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def _key(patch: int) -> Any:
    return derive_key(
        bytes(SEED_BYTES),
        key_id="bench",
        version=1,
        patch_size=patch,
        channels=_CHANNELS,
    )

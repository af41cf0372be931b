"""What each scheme costs in accuracy: trained on pictures that are encrypted with it.

One key for every picture, as the literature of these schemes has it. Pictures are
encrypted once, before training: so none is cropped or mirrored anew, under no scheme.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from einops import rearrange

from core.datasets import Dataset
from core.leakage.fidelity import Pictures
from core.leakage.schemes import (
    block_scrambling,
    learnable,
    pixel_shuffling,
    random_orthogonal,
)
from core.leakage.schemes.block_key import BlockKey, Pixels
from orchestrator.bench.shields import (
    Budget,
    Told,
    architecture_of,
    each_once,
    summed_up,
)

PLAIN: Final = "plain"

Encrypt = Callable[[Pictures], Pictures]
Draw = Callable[[int, tuple[int, ...], np.random.Generator], Encrypt]

# So many pictures are encrypted at a time, in float64.
_AT_ONCE: Final = 500


def measure_schemes(
    budget: Budget, schemes: Sequence[str], log: Path, told: Told
) -> list[dict[str, Any]]:
    """Train under each scheme with each seed: a key and first weights of its own.

    Each training is written to the log when it is done, and one that is there is not
    done again: the program may be ended at any moment, and goes on.

    Raises:
        AnotherMeasurement: the log is of another budget.
    """
    done = each_once(budget, ("scheme", schemes), log, told, _trained)
    return list(summed_up(done, "scheme", PLAIN))


def _trained(
    budget: Budget, data: tuple[Dataset, Dataset], scheme: str, seed: int
) -> dict[str, Any]:
    """One training and what came of it; in torch, with one thread."""
    import torch  # noqa: PLC0415 - a data owner's installation has none

    from core.convmixer import initialise  # noqa: PLC0415
    from core.training import Examples, Recipe, evaluate, fit  # noqa: PLC0415

    torch.set_num_threads(1)
    began = time.process_time()
    shape = architecture_of(budget, data[0])
    encrypt = SCHEMES[scheme](
        budget.patch_size, data[0].images.shape[1:], np.random.default_rng(seed)
    )
    seen = [
        _encrypted(part.images[:count], encrypt)
        for part, count in zip(data, (budget.images, None), strict=True)
    ]
    # The same two numbers for all: who trains knows neither channels nor places.
    mean, deviation = seen[0].mean(), seen[0].std()
    train, test = (
        Examples((each - mean) / deviation, part.labels[: len(each)].astype(np.int64))
        for each, part in zip(seen, data, strict=True)
    )
    model = initialise(shape, seed)
    recipe = Recipe(epochs=budget.epochs, pad=0, flip=False, seed=seed)
    curve = fit(model, train, None, recipe)
    return {
        "outputs": shape.dimension,
        "accuracy": evaluate(model, test),
        "loss": round(curve[-1].loss, 4),
        "cpu_s": round(time.process_time() - began, 1),
    }


def _encrypted(pixels: np.ndarray, encrypt: Encrypt) -> np.ndarray:
    """Bytes [n, h, w, c] as encrypted pictures, float32 [n, c, h, w]."""
    parts = [
        encrypt(rearrange(pixels[at : at + _AT_ONCE], "n h w c -> n c h w") / 255)
        for at in range(0, len(pixels), _AT_ONCE)
    ]
    return np.concatenate([part.astype(np.float32) for part in parts])


def _plain(_side: int, _shape: tuple[int, ...], _rng: np.random.Generator) -> Encrypt:
    return lambda pictures: pictures


def _by_blocks(
    draw: Callable[[int, int, np.random.Generator], BlockKey],
    side: int,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> Encrypt:
    key = draw(side, shape[-1], rng)
    return lambda pictures: key.coordinates.pictures(key.encrypt(pictures))


def _ours(side: int, channels: int, rng: np.random.Generator) -> BlockKey:
    return random_orthogonal.draw(Pixels(side, channels, mean=0.5), rng)


def _scrambled(side: int, shape: tuple[int, ...], rng: np.random.Generator) -> Encrypt:
    height, width, channels = shape
    places = (height // side) * (width // side)
    key = block_scrambling.draw(side, channels, places, rng)
    return lambda pictures: block_scrambling.as_pictures(
        key.encrypt(pictures), side, channels
    )


SCHEMES: Final[dict[str, Draw]] = {
    PLAIN: _plain,
    random_orthogonal.NAME: partial(_by_blocks, _ours),
    pixel_shuffling.SHUFFLED: partial(_by_blocks, pixel_shuffling.draw_shuffled),
    pixel_shuffling.NEGATED: partial(_by_blocks, pixel_shuffling.draw_negated),
    learnable.NAME: partial(_by_blocks, learnable.draw),
    block_scrambling.NAME: _scrambled,
}

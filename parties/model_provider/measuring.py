"""Measure a release's leakage card: attack pictures that the model did not learn from.

The provider has plain pictures, and nobody else does: so it measures, and signs.
"""

from typing import Final

import numpy as np
from einops import rearrange

from core.card import LOWER_BOUND, Card
from core.datasets import Dataset, Split, load
from core.errors import DataError, ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.quick_set import OWN, kept_public, measure_card
from core.leakage.sent_pixels import SentPixels
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.shield import Shield

_SEED: Final = 0


def card_of(
    data: tuple[Dataset, Dataset],
    preprocessing: Preprocessing,
    patch_size: int,
    shield: Shield | None,
) -> Card | None:
    """Measure on training and test images; None if that cannot be done.

    The test images are attacked. The attacker's are training images: public pictures of
    the same kind.
    """
    try:
        return _measured(data, SentPixels.of(preprocessing, patch_size, shield))
    except (DataError, ShapeError):
        return None


def measured_on(manifest: Manifest, data: str) -> Card:
    """Measure what a manifest describes on a dataset, fitted to the model's pictures.

    Raises:
        DataError: the pictures are too few, or have other channels.
        ShapeError: they are too small.
    """
    p, (patch_size, channels) = manifest.preprocessing, manifest.block
    splits: tuple[Split, ...] = ("train", "test")
    training, test = (
        load(data, split, size=(p.height, p.width), resize=p.resize) for split in splits
    )
    if training.images.shape[-1] != channels:
        raise DataError(
            f"{data}: pictures have {training.images.shape[-1]} channels, the model "
            f"reads {channels}"
        )
    return _measured((training, test), SentPixels.of(p, patch_size, manifest.shield))


def in_words(card: Card | None) -> str:
    """What a person is told of it: the attack that recovered most."""
    if card is None:
        return "not measured: the pictures are too few, too small, or all the same"
    worst = card.strongest
    return (
        f"{worst.name}, {worst.setting}: SSIM {worst.ssim:.2f}, {worst.psnr:.1f} dB; "
        f"{LOWER_BOUND}"
    )


def _measured(data: tuple[Dataset, Dataset], sent: SentPixels) -> Card:
    training, test = data
    own = _drawn(test, OWN)
    if not len(own):
        raise DataError(f"{test.name}: no picture to attack")
    return measure_card(own, _drawn(training, kept_public(own)), sent, _SEED)


def _drawn(part: Dataset, count: int) -> Pictures:
    """Some of the pictures, [n, c, h, w] from 0 to 1; the same ones every time."""
    order = np.random.default_rng(_SEED).permutation(len(part))
    chosen = part.images[np.sort(order[:count])]
    return rearrange(chosen, "n h w c -> n c h w") / 255

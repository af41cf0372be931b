"""What whoever has the key sees of pictures, in torch: for a network that learns it."""

import torch

from core.errors import ShapeError
from core.leakage.inversion import Seeing
from core.leakage.sent_pixels import SentPixels
from core.shielding import Shielding


def seeing(sent: SentPixels) -> Seeing:
    """What is left of pictures from 0 to 1: normalised, then shielded, noise and all.

    Raises:
        ShapeError: there is no shield: all is left.
    """
    if sent.shield is None:
        raise ShapeError("without a shield nothing is to be learned")
    applied = Shielding.of(sent.shield)
    mean, std = (
        torch.tensor(each, dtype=torch.float32).expand(sent.channels)[:, None, None]
        for each in (sent.pixels.mean, sent.pixels.deviation)
    )
    return lambda pictures, generator: applied((pictures - mean) / std, generator)

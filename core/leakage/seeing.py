"""What whoever has the key sees of pictures, in torch, and a network that learns it."""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from core.errors import ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.inversion import Agreeing, Inversion, Seeing, Training, learn
from core.leakage.sent_pixels import SentPixels
from core.shielding import Shielding

# More than one where signs are missing: each round guesses them anew.
_ROUNDS: Final = 3


def learned_inversion(
    sent: SentPixels,
    public: Pictures,
    first: tuple[np.ndarray, np.ndarray],
    training: Training,
) -> Inversion:
    """Train a network on public pictures, as `learn` does, for what is sent."""
    if sent.shield is None or not sent.shield.unsigned:
        return learn(public, seeing(sent), first, training)
    training = replace(training, rounds=_ROUNDS)
    return learn(public, seeing(sent), first, training, agreeing=agreeing(sent))


def seeing(sent: SentPixels) -> Seeing:
    """What is left of pictures from 0 to 1: normalised, then shielded, noise and all.

    Raises:
        ShapeError: there is no shield: all is left.
    """
    applied, mean, deviation = _applied(sent)
    return lambda pictures, generator: applied((pictures - mean) / deviation, generator)


def agreeing(sent: SentPixels) -> Agreeing:
    """What changes pictures as little as can be, so that they would be seen so.

    Raises:
        ShapeError: there is no shield: nothing is to be guessed.
    """
    applied, mean, deviation = _applied(sent)
    return lambda seen, pictures: (
        applied.agreeing(seen, (pictures - mean) / deviation) * deviation + mean
    )


def _applied(sent: SentPixels) -> tuple[Shielding, Tensor, Tensor]:
    if sent.shield is None:
        raise ShapeError("without a shield nothing is to be learned")
    mean, deviation = (
        torch.tensor(each, dtype=torch.float32).expand(sent.channels)[:, None, None]
        for each in (sent.pixels.mean, sent.pixels.deviation)
    )
    return Shielding.of(sent.shield), mean, deviation

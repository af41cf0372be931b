"""A network is trained for what a shield leaves: in rounds where signs are missing."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Generator

from core.errors import ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.inversion import Training
from core.leakage.schemes.block_key import Pixels
from core.leakage.seeing import agreeing, learned_inversion, seeing
from core.leakage.sent_pixels import SentPixels
from core.shield import Magnitude, Noise, Shield

# Normalised, so that a way back that forgot it would show.
PIXELS = Pixels(2, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


@pytest.mark.parametrize(
    ("shield", "rounds"), [(Magnitude(2, 3, 3), 3), (Noise(2, 0.1, (0.2,) * 3), 1)]
)
def test_it_works_in_rounds_where_signs_are_missing(
    pictures: Pictures, shield: Shield, rounds: int
) -> None:
    sent = SentPixels(PIXELS, shield)
    first = np.zeros((64 * shield.outputs, 768)), np.full(768, 0.5)
    plan = Training(epochs=1, batch=64, hidden=8, depth=1, fine=4)

    assert learned_inversion(sent, pictures[:64], first, plan).rounds == rounds


def test_what_agrees_is_seen_as_it_was(pictures: Pictures) -> None:
    """From grey pictures, and what was the picture already stays."""
    sent = SentPixels(PIXELS, Magnitude(2, 3, 3))
    own = torch.from_numpy(pictures[:4]).float()
    seen = seeing(sent)(own, Generator())
    agreed = agreeing(sent)(seen, torch.full_like(own, 0.5))

    assert (agreed - own).abs().max() > 0.05
    assert_allclose(seeing(sent)(agreed, Generator()), seen, atol=1e-4)
    assert_allclose(agreeing(sent)(seen, own), own, atol=1e-4)


def test_without_a_shield_there_is_nothing_to_learn() -> None:
    with pytest.raises(ShapeError, match="without a shield"):
        seeing(SentPixels(PIXELS))

"""A network trained under keys of one's own learns what no key changes, and no more."""

import numpy as np
import pytest
import torch
from torch import Generator

from core.errors import ShapeError
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.inversion import Training
from core.leakage.own_keys import as_sent, products, recover, under_own_keys
from core.leakage.schemes.block_key import Pixels
from core.leakage.schemes.random_orthogonal import draw

OWN = 40
TRAINING = Training(epochs=2, batch=32, hidden=16, depth=1, fine=8)


def sent(pictures: Pictures, seed: int) -> np.ndarray:
    return draw(Pixels(2, 3), np.random.default_rng(seed)).encrypt(pictures)


def test_products_are_the_same_under_every_key(pictures: Pictures) -> None:
    """And the numbers themselves are not."""
    one, other = (torch.from_numpy(sent(pictures[:5], seed)) for seed in (1, 2))

    assert products(one).numpy() == pytest.approx(products(other).numpy(), abs=1e-6)
    assert float((as_sent(one) - as_sent(other)).abs().mean()) > 0.1


def test_products_hold_the_norm_map_in_their_middle(pictures: Pictures) -> None:
    blocks = sent(pictures[:5], 1)

    middle = products(torch.from_numpy(blocks))[:, 12].numpy()

    assert middle == pytest.approx(np.sqrt((blocks**2).mean(-1)))


def test_each_picture_has_a_key_of_its_own(pictures: Pictures) -> None:
    blocks = torch.from_numpy(Pixels(2, 3).blocks(pictures[:1])).float()
    twice = torch.cat([blocks, blocks])

    hidden = under_own_keys(twice, Generator().manual_seed(0))

    lengths = hidden.norm(dim=-1)
    assert lengths.numpy() == pytest.approx(twice.norm(dim=-1).numpy(), abs=1e-5)
    assert float((hidden[0] - hidden[1]).abs().mean()) > 0.1


def test_products_show_more_than_the_mean_colour(pictures: Pictures) -> None:
    """Not so if each block had a factor of its own: the assumption taken away."""
    own, public = pictures[:OWN], pictures[OWN:]
    hidden = sent(own, 3)
    factors = 10 ** np.random.default_rng(0).uniform(-1, 1, (OWN, 8, 8, 1))
    mean = np.broadcast_to(public.mean(axis=(0, 2, 3))[:, None, None], own.shape)

    right, wrong = (
        fidelity(own, recover(each, public, Pixels(2, 3), products, TRAINING)).psnr
        for each in (hidden, hidden * factors)
    )

    assert right > fidelity(own, mean).psnr + 2
    assert wrong < fidelity(own, mean).psnr + 1


def test_of_transformed_numbers_it_learns_something_under_keys_it_never_saw(
    pictures: Pictures,
) -> None:
    own, public = pictures[:OWN], pictures[OWN:]

    found = recover(sent(own, 3), public, Pixels(2, 3), as_sent, TRAINING)

    assert found.shape == own.shape
    assert np.ptp(found) > 0
    assert fidelity(own, found).ssim < 0.6


def test_pictures_that_are_too_large_are_refused() -> None:
    large = np.zeros((20, 3, 96, 96), np.float32)

    with pytest.raises(ShapeError, match="too large"):
        recover(np.zeros((1, 8, 8, 12)), large, Pixels(2, 3), as_sent, TRAINING)

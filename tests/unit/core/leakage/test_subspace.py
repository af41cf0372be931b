"""Large blocks are attacked in few axes, small ones whole."""

import numpy as np

from core.leakage.colour_signs import Colours
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.schemes.block_key import Pixels
from core.leakage.schemes.random_orthogonal import draw
from core.leakage.second_order import Public
from core.leakage.subspace import WHOLE, kept_axes


def enlarged(pictures: Pictures, times: int) -> Pictures:
    """Every pixel as so many by so many: a block has no more to say."""
    return np.kron(pictures, np.ones((times, times)))


def test_a_small_block_is_attacked_whole(pictures: Pictures) -> None:
    assert kept_axes(Pixels(4, 3).blocks(pictures)) == 48


def test_of_a_large_block_only_what_varies_counts(pictures: Pictures) -> None:
    """Blocks of 8x8 enlarged pixels hold no more than the 2x2 that they were."""
    large = kept_axes(Pixels(8, 3).blocks(enlarged(pictures[:100], 4)))

    assert 2 <= large <= 12
    noise = np.random.default_rng(0).random((40, 3, 16, 16))
    assert kept_axes(Pixels(8, 3).blocks(noise)) == WHOLE


def test_few_axes_are_enough_for_enlarged_pictures(pictures: Pictures) -> None:
    """D is 192: the key is not found, but what matters of it is."""
    large = enlarged(pictures[:200], 4)
    own, public, coordinates = large[:8], large[8:], Pixels(8, 3)
    blocks = coordinates.blocks(public)
    hidden = draw(coordinates, np.random.default_rng(1)).encrypt(own)

    attacker = Public(blocks, kept_axes(blocks))
    (guess,) = attacker.attack([hidden], 3, np.random.default_rng(0))
    matrix = Colours(public).choose(guess.matrix, hidden, coordinates.pictures)

    assert fidelity(own, coordinates.pictures(hidden @ matrix.T)).ssim > 0.8

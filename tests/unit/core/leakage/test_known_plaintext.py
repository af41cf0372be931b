"""Known plaintext: exact from D blocks, a prior for fewer, nothing from wrong pairs."""

import numpy as np
import pytest

from core.errors import NonFiniteError, ShapeError
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.known_plaintext import procrustes, recover, seen_directions
from core.leakage.moments import BlockPrior, flat
from core.leakage.schemes.block_key import BlockKey, Pixels
from core.leakage.schemes.random_orthogonal import draw


@pytest.fixture
def key(coordinates: Pixels) -> BlockKey:
    return draw(coordinates, np.random.default_rng(1))


def _pairs(key: BlockKey, pictures: Pictures, count: int) -> tuple[np.ndarray, ...]:
    plain = flat(key.coordinates.blocks(pictures))
    chosen = np.random.default_rng(2).choice(len(plain), count, replace=False)
    return plain[chosen], flat(key.encrypt(pictures))[chosen]


def test_enough_blocks_give_the_key_exactly(key: BlockKey, pictures: Pictures) -> None:
    plain, seen = _pairs(key, pictures[:20], 60)

    assert procrustes(plain, seen) == pytest.approx(key.matrix, abs=1e-9)


def test_the_prior_fills_in_what_few_blocks_do_not_show(
    key: BlockKey, pictures: Pictures
) -> None:
    """With Procrustes alone, and with nothing known, as what it is held against."""
    victims, prior = (
        pictures[20:60],
        BlockPrior.of(key.coordinates.blocks(pictures[60:])),
    )
    plain, seen = _pairs(key, pictures[:20], 3)
    hidden = key.encrypt(victims)

    with_prior = key.coordinates.pictures(
        recover(hidden, seen_directions(plain, seen), prior)
    )
    without = key.coordinates.pictures(hidden @ procrustes(plain, seen))

    constant = np.broadcast_to(
        victims.mean(axis=(0, 2, 3))[:, None, None], victims.shape
    )
    assert fidelity(victims, with_prior).ssim > fidelity(victims, without).ssim
    assert fidelity(victims, with_prior).ssim > fidelity(victims, constant).ssim + 0.3


def test_pairs_that_do_not_belong_together_recover_nothing(
    key: BlockKey, pictures: Pictures
) -> None:
    """The assumption taken away: the same blocks, each beside another's ciphertext."""
    victims = pictures[20:60]
    plain, seen = _pairs(key, pictures[:20], 60)
    hidden = key.encrypt(victims)

    right = key.coordinates.pictures(hidden @ procrustes(plain, seen))
    wrong = key.coordinates.pictures(
        hidden @ procrustes(plain, np.roll(seen, 1, axis=0))
    )

    assert fidelity(victims, right).psnr > 80
    assert fidelity(victims, wrong).psnr < 25


def test_pairs_of_unequal_number_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 12\)"):
        procrustes(np.zeros((3, 12)), np.zeros((4, 12)))


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ShapeError):
        seen_directions(np.zeros((0, 12)), np.zeros((0, 12)))


def test_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError):
        procrustes(np.full((2, 3), np.nan), np.zeros((2, 3)))

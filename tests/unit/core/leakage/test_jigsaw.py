"""Scrambled blocks are put together again, if one key scrambled all pictures."""

import numpy as np
import pytest

from core.errors import ShapeError
from core.leakage.fidelity import Pictures, ssim
from core.leakage.jigsaw import Jigsaw, edge_fits, recolourings
from core.leakage.lifelike import Lifelike
from core.leakage.schemes.block_scrambling import (
    as_pictures,
    centred_blocks,
    draw,
    variant_matrices,
)


@pytest.fixture(scope="module")
def attacker(pictures: Pictures) -> Jigsaw:
    return Jigsaw.of(centred_blocks(pictures[400:], 4), 4, 3)


@pytest.fixture(scope="module")
def lifelike(pictures: Pictures) -> Lifelike:
    return Lifelike(pictures[400:], recolourings(3))


def _likeness(original: Pictures, found: Pictures) -> float:
    """Of the eight ways round, the nearest."""
    turned = [np.rot90(found, turns, axes=(2, 3)) for turns in range(4)]
    ways = [way for each in turned for way in (each, each[..., ::-1])]
    return max(float(ssim(original, way).mean()) for way in ways)


def test_many_pictures_under_one_key_come_together(
    pictures: Pictures, attacker: Jigsaw, lifelike: Lifelike
) -> None:
    rng = np.random.default_rng(0)
    key = draw(4, 3, 16, rng)
    hidden = key.encrypt(pictures[:200])

    found = attacker.attack(hidden, 15, rng, lifelike).decrypt(hidden)

    assert _likeness(pictures[:200], found) > 0.8
    assert _likeness(pictures[:200], as_pictures(hidden, 4, 3)) < 0.2


def test_a_key_for_each_picture_leaves_nothing_to_vote_on(
    pictures: Pictures, attacker: Jigsaw, lifelike: Lifelike
) -> None:
    """The assumption taken away."""
    rng = np.random.default_rng(0)
    hidden = np.concatenate(
        [draw(4, 3, 16, rng).encrypt(pictures[at : at + 1]) for at in range(40)]
    )

    found = attacker.attack(hidden, 15, rng, lifelike).decrypt(hidden)

    assert _likeness(pictures[:40], found) < 0.3


def test_no_variant_changes_how_blocks_fit(pictures: Pictures) -> None:
    """And nothing fits a block better than itself."""
    rng = np.random.default_rng(0)
    blocks = centred_blocks(pictures[:20], 4).reshape(20, 16, 48)
    variants = variant_matrices(4, 3)[rng.integers(96, size=16)]

    turned = edge_fits(np.einsum("pij,npj->npi", variants, blocks), 4, 3)
    twice = edge_fits(blocks[:, [0, 0, 1]], 4, 3)

    assert turned == pytest.approx(edge_fits(blocks, 4, 3))
    assert twice[0, 1] == twice.max() > twice[0, 2]


def test_what_does_not_fit_the_public_grid_is_refused(
    attacker: Jigsaw, lifelike: Lifelike
) -> None:
    rng = np.random.default_rng(0)

    with pytest.raises(ShapeError, match="blocks and a start"):
        attacker.attack(np.zeros((1, 8, 8, 48)), 1, rng, lifelike)
    with pytest.raises(ShapeError, match="blocks and a start"):
        attacker.attack(np.zeros((1, 4, 4, 48)), 0, rng, lifelike)

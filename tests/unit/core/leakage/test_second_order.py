"""Ciphertext only: near the key, unless the public pictures tell nothing of these."""

import numpy as np
import pytest

from core.errors import ShapeError
from core.leakage.colour_signs import Colours
from core.leakage.fidelity import Pictures, fidelity
from core.leakage.moments import WindowMoments, effective_rank
from core.leakage.schemes.block_key import BlockKey, Pixels
from core.leakage.schemes.random_orthogonal import draw
from core.leakage.second_order import Public, _best_turns, _monomials, _turns


@pytest.fixture(scope="module")
def key() -> BlockKey:
    return draw(Pixels(2, 3), np.random.default_rng(1))


def _attacked(
    public: Pictures, victims: Pictures, key: BlockKey, seed: int
) -> Pictures:
    rng = np.random.default_rng(seed)
    hidden = key.encrypt(victims)
    to_pictures = key.coordinates.pictures
    (guess,) = Public(key.coordinates.blocks(public)).attack([hidden], 3, rng)
    matrix = Colours(public).choose(guess.matrix, hidden, to_pictures)
    return to_pictures(hidden @ matrix.T)


def test_transformed_pictures_alone_give_the_pictures(
    key: BlockKey, pictures: Pictures
) -> None:
    victims, public = pictures[:8], pictures[8:]

    recovered = fidelity(victims, _attacked(public, victims, key, seed=0))

    assert recovered.ssim > 0.9


def test_public_noise_recovers_nothing(key: BlockKey, pictures: Pictures) -> None:
    """The assumption taken away: the same pixels, without what lies beside what."""
    victims, public = pictures[:8], pictures[8:]
    pixels = public.transpose(0, 2, 3, 1).reshape(-1, 3)
    shuffled = np.random.default_rng(0).permutation(pixels)
    noise = shuffled.reshape(len(public), 16, 16, 3).transpose(0, 3, 1, 2)

    recovered = fidelity(victims, _attacked(noise, victims, key, seed=0))

    assert recovered.ssim < 0.6


def test_the_same_seed_gives_the_same_guess(key: BlockKey, pictures: Pictures) -> None:
    first, second = (
        _attacked(pictures[100:200], pictures[:2], key, seed=3) for _ in range(2)
    )

    assert np.array_equal(first, second)


def test_a_guess_is_orthogonal_and_its_loss_is_that_of_the_definition(
    key: BlockKey, pictures: Pictures
) -> None:
    """The sums that are kept up to date while turning, against the plain formula."""
    public = Public(key.coordinates.blocks(pictures[50:]))
    hidden = key.encrypt(pictures[:3])
    (guess,) = public.attack([hidden], 1, np.random.default_rng(0))

    plain = WindowMoments.of(hidden @ guess.matrix.T)
    known = WindowMoments.of(key.coordinates.blocks(pictures[50:]))
    level = np.trace(known.covariance) / len(known.covariance)
    inverse = np.linalg.inv(known.covariance + 5e-4 * level * np.eye(48))
    loss = np.sum(inverse * plain.second) - 2 * known.mean @ inverse @ plain.mean

    assert guess.matrix @ guess.matrix.T == pytest.approx(np.eye(12), abs=1e-9)
    assert guess.loss == pytest.approx(loss, rel=1e-6)


def test_the_best_turn_is_the_least_of_a_fine_grid() -> None:
    """Rotations and reflections in steps of a tenth of a degree."""
    terms = np.random.default_rng(5).standard_normal((20, 6))
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    every = np.concatenate(
        [
            _monomials(_turns(angles, np.full(3600, sign))) @ terms
            for sign in (1.0, -1.0)
        ]
    )

    found = (_monomials(_best_turns(terms)) * terms.T).sum(axis=1)

    assert (found <= every.min(axis=0) + 1e-9).all()


def test_searches_side_by_side_do_not_touch_one_another(
    key: BlockKey, pictures: Pictures
) -> None:
    public = Public(key.coordinates.blocks(pictures[50:]))
    groups = [key.encrypt(pictures[:2]), key.encrypt(pictures[2:4])]

    together = public.attack(groups, 1, np.random.default_rng(0))
    alone = public.attack(groups[:1], 1, np.random.default_rng(0))

    assert together[0].loss == pytest.approx(alone[0].loss, rel=1e-6)


def test_blocks_of_another_size_are_refused(
    coordinates: Pixels, pictures: Pictures
) -> None:
    public = Public(coordinates.blocks(pictures[:20]))

    with pytest.raises(ShapeError, match="12"):
        public.attack([np.zeros((1, 4, 4, 48))], 1, np.random.default_rng(0))
    with pytest.raises(ShapeError, match="start"):
        public.attack([np.zeros((1, 4, 4, 12))], 0, np.random.default_rng(0))


def test_a_single_row_of_blocks_has_no_windows() -> None:
    with pytest.raises(ShapeError, match="2x2"):
        WindowMoments.of(np.zeros((3, 1, 8, 12)))


def test_the_effective_rank_counts_directions_that_vary() -> None:
    blocks = np.zeros((50, 4, 4, 12))
    blocks[..., :3] = np.random.default_rng(0).standard_normal((50, 4, 4, 3))

    assert effective_rank(blocks) == 3

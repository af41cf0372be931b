"""The schemes undo themselves, are what their papers say, and fall to known pairs."""

from collections.abc import Callable

import numpy as np
import pytest

from core.blocks import encrypt
from core.errors import KeyMismatchError, ShapeError
from core.keys import BlockKey as OwnersKey
from core.leakage import scrambling_pairs, signed_permutation
from core.leakage.fidelity import Pictures, psnr
from core.leakage.moments import flat
from core.leakage.schemes import (
    block_scrambling,
    learnable,
    pixel_shuffling,
    random_orthogonal,
)
from core.leakage.schemes.block_key import BlockKey, Pixels

Draw = Callable[[int, int, np.random.Generator], BlockKey]
CONVENTIONAL = (
    pixel_shuffling.draw_shuffled,
    pixel_shuffling.draw_negated,
    learnable.draw,
)


def _bytes(pictures: Pictures) -> np.ndarray:
    steps: np.ndarray = np.rint(pictures * 255)
    return steps


@pytest.mark.parametrize("draw", CONVENTIONAL)
def test_a_conventional_key_moves_numbers_and_decrypts(
    draw: Draw, pictures: Pictures
) -> None:
    key = draw(4, 3, np.random.default_rng(0))

    assert np.array_equal(np.abs(key.matrix).sum(axis=0), np.ones(len(key.matrix)))
    restored = key.decrypt(key.encrypt(pictures[:5]))
    assert np.array_equal(_bytes(pictures[:5]), _bytes(restored))


def test_ours_is_what_an_owner_sends(pictures: Pictures) -> None:
    """The lab attacks the product's own function, normalisation included."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    key = random_orthogonal.draw(Pixels(4, 3, mean, std), np.random.default_rng(0))
    axes = (slice(None), None, None)
    normalised = (pictures[:3] - np.array(mean)[axes]) / np.array(std)[axes]

    sent = encrypt(normalised, OwnersKey("k", 1, 4, 3, key.matrix.copy()))

    assert key.encrypt(pictures[:3]) == pytest.approx(sent, abs=1e-12)


def test_learnable_encryption_reverses_and_moves_halves_of_bytes() -> None:
    """0xA3 with its upper half reversed and both halves exchanged is 0x35."""
    coordinates = learnable.Halves(1, 1)
    key = BlockKey("one", coordinates, np.array([[0.0, 1.0], [-1.0, 0.0]]))

    seen = coordinates.pictures(key.encrypt(np.full((1, 1, 1, 1), 0xA3 / 255)))

    assert _bytes(seen).item() == 0x35


def test_scrambling_has_ninety_six_variants_of_a_colour_block() -> None:
    variants = block_scrambling.variant_matrices(4, 3)

    assert variants.shape == (96, 48, 48)
    assert len(np.unique(variants.reshape(96, -1), axis=0)) == 96


def test_scrambling_undoes_itself(pictures: Pictures) -> None:
    key = block_scrambling.draw(4, 3, 16, np.random.default_rng(0))

    assert key.decrypt(key.encrypt(pictures[:5])) == pytest.approx(pictures[:5])


@pytest.mark.parametrize("draw", CONVENTIONAL)
def test_a_known_picture_opens_every_conventional_scheme(
    draw: Draw, pictures: Pictures
) -> None:
    """And the wrong picture opens none: the assumption taken away."""
    key = draw(4, 3, np.random.default_rng(0))
    hidden, plain = key.encrypt(pictures), key.coordinates.blocks(pictures)

    # A flat picture looks right whichever way its pixels are moved.
    victims = np.argsort(pictures.std(axis=(1, 2, 3)))[-20:]
    right = signed_permutation.from_pairs(flat(plain[:8]), flat(hidden[:8]))
    wrong = signed_permutation.from_pairs(flat(plain[8:16]), flat(hidden[:8]))

    opened = psnr(pictures[victims], key.coordinates.pictures(hidden[victims] @ right))
    closed = psnr(pictures[victims], key.coordinates.pictures(hidden[victims] @ wrong))
    assert opened.mean() > 30
    assert closed.mean() < 20


def test_a_known_picture_shows_where_blocks_went(pictures: Pictures) -> None:
    key = block_scrambling.draw(4, 3, 16, np.random.default_rng(0))
    hidden = key.encrypt(pictures)
    plain = block_scrambling.centred_blocks(pictures, 4)

    right = scrambling_pairs.recover_key(plain[:4], hidden[:4], 4, 3)
    wrong = scrambling_pairs.recover_key(plain[4:8], hidden[:4], 4, 3)

    assert psnr(pictures[20:40], right.decrypt(hidden[20:40])).mean() > 40
    assert psnr(pictures[20:40], wrong.decrypt(hidden[20:40])).mean() < 20


def test_a_guess_near_a_discrete_key_rounds_to_it() -> None:
    key = pixel_shuffling.draw_negated(4, 3, np.random.default_rng(0))
    near = key.matrix + 0.1 * np.random.default_rng(1).standard_normal((48, 48))

    assert np.array_equal(signed_permutation.nearest(near), key.matrix)


def test_random_orthogonal_matrices_are_haar() -> None:
    """The diagonal's sign is even: without the correction it never is."""
    rng = np.random.default_rng(0)
    traces = [np.sign(random_orthogonal.haar(4, rng)[0, 0]) for _ in range(400)]

    assert abs(np.mean(traces)) < 0.2


def test_what_does_not_fit_a_key_is_refused(pictures: Pictures) -> None:
    with pytest.raises(KeyMismatchError, match="16"):
        block_scrambling.draw(4, 3, 16, np.random.default_rng(0)).encrypt(
            np.zeros((1, 3, 32, 32))
        )
    with pytest.raises(KeyMismatchError):
        BlockKey("x", Pixels(2, 3), np.eye(11))
    with pytest.raises(ShapeError):
        signed_permutation.nearest(np.zeros((3, 4)))
    with pytest.raises(ShapeError):
        signed_permutation.from_pairs(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(ShapeError):
        scrambling_pairs.recover_key(
            np.zeros((1, 2, 2, 12)), np.zeros((1, 3, 2, 12)), 2, 3
        )

"""Embeddings give keys; norms, distances and equal blocks tell without any key."""

import numpy as np
import pytest

from core.errors import NonFiniteError, ShapeError
from core.leakage import equal_blocks, linkage, norm_map, public_embedding, two_keys
from core.leakage.fidelity import Pictures
from core.leakage.schemes.block_key import Pixels
from core.leakage.schemes.random_orthogonal import draw

HIDDEN = 64


@pytest.fixture
def embedding() -> np.ndarray:
    return np.random.default_rng(9).standard_normal((HIDDEN, 12))


def test_a_public_embedding_gives_the_key(
    embedding: np.ndarray, coordinates: Pixels
) -> None:
    """And an unrelated one gives a matrix that has nothing to do with it."""
    key = draw(coordinates, np.random.default_rng(1)).matrix
    unrelated = np.random.default_rng(10).standard_normal(embedding.shape)

    found = public_embedding.recover_key(embedding, embedding @ key.T)
    lost = public_embedding.recover_key(unrelated, embedding @ key.T)

    assert found == pytest.approx(key, abs=1e-9)
    assert np.linalg.norm(lost - key) > 3


def test_an_embedding_that_was_fine_tuned_comes_near(
    embedding: np.ndarray, coordinates: Pixels
) -> None:
    key = draw(coordinates, np.random.default_rng(1)).matrix
    noise = 0.1 * np.random.default_rng(2).standard_normal(embedding.shape)

    found = public_embedding.recover_key(embedding, (embedding + noise) @ key.T)

    assert 1e-3 < np.linalg.norm(found - key) / np.linalg.norm(key) < 0.1


def test_one_leaked_key_opens_the_other_of_its_model(
    embedding: np.ndarray, coordinates: Pixels
) -> None:
    """But not the key of another model: the assumption taken away."""
    first, second = (draw(coordinates, np.random.default_rng(s)).matrix for s in (1, 2))
    other_model = np.random.default_rng(10).standard_normal(embedding.shape)

    found = two_keys.other_key(embedding @ first.T, first, embedding @ second.T)
    lost = two_keys.other_key(embedding @ first.T, first, other_model @ second.T)

    assert found == pytest.approx(second, abs=1e-9)
    assert np.linalg.norm(lost - second) > 3


def test_the_norm_map_is_the_pictures_brightness(
    pictures: Pictures, coordinates: Pixels
) -> None:
    blocks = draw(coordinates, np.random.default_rng(1)).encrypt(pictures[:50])
    brightness = pictures[:50].reshape(50, 3, 8, 2, 8, 2).mean(axis=(1, 3, 5))

    shown = norm_map.norm_map(blocks)

    assert np.corrcoef(shown.ravel(), brightness.ravel())[0, 1] > 0.97
    assert norm_map.enlarged(shown, 16, 16, 3).shape == (50, 3, 16, 16)


@pytest.mark.parametrize("kept", ["norms", "distances"])
def test_a_picture_sent_again_under_a_fresh_key_is_found(
    kept: linkage.Kept, pictures: Pictures, coordinates: Pixels
) -> None:
    first, second = (draw(coordinates, np.random.default_rng(s)) for s in (1, 2))
    sent, again = first.encrypt(pictures[:200]), second.encrypt(pictures[50:150])

    found = linkage.match(linkage.features(again, kept), linkage.features(sent, kept))

    assert (found == np.arange(50, 150)).mean() > 0.99


def test_another_picture_of_the_same_size_is_not_found(
    pictures: Pictures, coordinates: Pixels
) -> None:
    """Keys keep norms; a key for each block with its own factor does not."""
    blocks = coordinates.blocks(pictures[:200])
    factors = np.random.default_rng(0).uniform(0.1, 10, (200, 8, 8, 1))

    found = linkage.match(linkage.features(blocks * factors), linkage.features(blocks))

    assert (found == np.arange(200)).mean() < 0.2


def test_an_offset_hides_norms_but_not_distances(
    pictures: Pictures, coordinates: Pixels
) -> None:
    key, other = (draw(coordinates, np.random.default_rng(s)) for s in (1, 2))
    offset = 30 * np.random.default_rng(3).standard_normal(12)
    sent, again = key.encrypt(pictures[:200]), other.encrypt(pictures[:200]) + offset

    def linked(kept: linkage.Kept) -> float:
        found = linkage.match(
            linkage.features(again, kept), linkage.features(sent, kept)
        )
        return float((found == np.arange(200)).mean())

    assert linked("distances") > 0.99
    assert linked("norms") < 0.1


def test_equal_blocks_stay_equal(coordinates: Pixels, pictures: Pictures) -> None:
    """A picture whose left half repeats one block, and one of noise."""
    repeated = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16))
    repeated[..., :8] = np.tile(repeated[..., :2, :2], (1, 1, 8, 4))
    noise = np.random.default_rng(1).uniform(0, 1, (1, 3, 16, 16))
    key = draw(coordinates, np.random.default_rng(1))

    shares = equal_blocks.equal_share(key.encrypt(np.concatenate([repeated, noise])))

    assert shares.tolist() == [0.5, 0.0]


def test_what_has_not_the_right_form_is_refused() -> None:
    with pytest.raises(ShapeError):
        public_embedding.recover_key(np.zeros((4, 12)), np.zeros((5, 12)))
    with pytest.raises(NonFiniteError):
        two_keys.relation(np.full((4, 3), np.inf), np.zeros((4, 3)))
    with pytest.raises(ShapeError):
        norm_map.norm_map(np.zeros((4, 12)))
    with pytest.raises(ShapeError):
        linkage.match(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(NonFiniteError):
        equal_blocks.equal_share(np.full((1, 2, 2, 3), np.nan))

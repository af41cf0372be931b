"""The folded key against the two plain steps: normalise, then encrypt."""

import pickle

import numpy as np
import pytest

from core.blocks import encrypt
from core.errors import DtypeError, KeyMismatchError, ShapeError
from core.keys import BlockKey, derive_key
from core.pixels import PixelKey
from core.preprocessing import Preprocessing, normalise


def key_for(side: int, channels: int) -> BlockKey:
    return derive_key(
        bytes(32), key_id="k", version=1, patch_size=side, channels=channels
    )


def pictures(n: int, p: Preprocessing) -> np.ndarray:
    shape = (n, p.height, p.width, p.channels)
    return np.random.default_rng(n).integers(0, 256, shape, np.uint8)


COLOUR = Preprocessing(8, 12, 3, (0.49, 0.48, 0.45), (0.247, 0.243, 0.261))


@pytest.mark.parametrize("n", [0, 1, 2, 1200])
def test_one_step_is_the_two_plain_steps_up_to_rounding(n: int) -> None:
    """Sides differ, channels differ, and 1,200 pictures are more than one chunk."""
    key, images = key_for(4, 3), pictures(n, COLOUR)
    expected = encrypt(normalise(images, COLOUR), key)

    found = PixelKey.of(key, COLOUR).encrypt(images)

    assert found.dtype == np.float32
    assert expected.shape == found.shape
    assert np.abs(expected - found).max(initial=0) < 1e-5


@pytest.mark.parametrize("side", [1, 2, 7, 14])
def test_grey_pictures_and_any_patch(side: int) -> None:
    grey = Preprocessing(28, 28, 1, (0.13,), (0.31,))
    key, images = key_for(side, 1), pictures(3, grey)

    found = PixelKey.of(key, grey).encrypt(images)

    np.testing.assert_allclose(encrypt(normalise(images, grey), key), found, atol=1e-5)


def test_pixels_that_do_not_lie_in_a_row_are_read_as_they_are_seen() -> None:
    images = pictures(4, COLOUR)
    folded = PixelKey.of(key_for(4, 3), COLOUR)
    mirrored = images[::2, :, ::-1]

    np.testing.assert_array_equal(
        folded.encrypt(mirrored.copy()), folded.encrypt(mirrored)
    )


def test_what_is_no_picture_of_the_model_is_refused() -> None:
    folded, images = PixelKey.of(key_for(4, 3), COLOUR), pictures(2, COLOUR)

    with pytest.raises(DtypeError):
        folded.encrypt(images.astype(np.float32))
    for wrong in (images[0], images[:, :4], images[..., :1]):
        with pytest.raises(ShapeError):
            folded.encrypt(wrong)


@pytest.mark.parametrize(("side", "channels"), [(5, 3), (8, 3), (4, 1)])
def test_a_key_of_another_size_is_refused(side: int, channels: int) -> None:
    with pytest.raises(KeyMismatchError):
        PixelKey.of(key_for(side, channels), COLOUR)


def test_a_folded_key_is_as_secret_as_the_key() -> None:
    folded = PixelKey.of(key_for(4, 3), COLOUR)

    assert "matrix" not in repr(folded)
    assert "offset" not in repr(folded)
    with pytest.raises(TypeError):
        pickle.dumps(folded)

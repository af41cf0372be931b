"""Encrypted blocks become something to look at."""

import io

import numpy as np
from PIL import Image

from core.blocks import encrypt, to_blocks
from core.keys import derive_key
from parties.data_owner.pictures import as_picture, png

KEY = derive_key(bytes(32), key_id="k", version=1, patch_size=4, channels=3)


def test_plain_blocks_give_the_picture_back() -> None:
    """Without a key only the contrast is stretched: least to 0, greatest to 255."""
    images = np.linspace(-1, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
    expected = np.rint((images[0] + 1) * 127.5).transpose(1, 2, 0)

    assert np.array_equal(expected, as_picture(to_blocks(images, 4)[0], 4, 3))


def test_an_encrypted_picture_uses_the_whole_range_and_hides_the_plain_one() -> None:
    ramp = np.linspace(-1, 1, 32, dtype=np.float32)
    images = np.broadcast_to(ramp, (1, 3, 32, 32)).copy()

    view = as_picture(encrypt(images, KEY)[0], 4, 3)

    assert (0, 255) == (view.min(), view.max())
    plain = as_picture(to_blocks(images, 4)[0], 4, 3)
    assert abs(np.corrcoef(plain.reshape(-1), view.reshape(-1))[0, 1]) < 0.5


def test_a_constant_picture_is_black_not_an_error() -> None:
    assert not as_picture(np.ones((2, 2, 48), np.float32), 4, 3).any()


def test_what_a_shield_left_of_blocks_is_laid_out_all_the_same() -> None:
    """39 numbers of 48: the first are where they would be, the others are grey."""
    blocks = np.random.default_rng(0).normal(size=(2, 3, 48)).astype(np.float32)
    left = blocks[..., :39]
    whole = left.copy()
    whole.resize((2, 3, 48))
    whole[..., :39], whole[..., 39:] = left, 0

    assert np.array_equal(as_picture(whole, 4, 3), as_picture(left, 4, 3))


def test_a_png_is_large_enough_to_see_and_exact() -> None:
    for channels in (1, 3):
        picture = np.arange(64 * channels, dtype=np.uint8).reshape(8, 8, channels)

        image = Image.open(io.BytesIO(png(picture)))

        assert image.size == (256, 256)
        shown = np.asarray(image).reshape(256, 256, channels)
        assert np.array_equal(picture, shown[::32, ::32])

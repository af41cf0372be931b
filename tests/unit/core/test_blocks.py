"""Blocks are cut as a convolution's kernel reads them, and bad images are refused."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.blocks import decrypt, encrypt, from_blocks, to_blocks
from core.errors import DtypeError, KeyMismatchError, NonFiniteError, ShapeError
from core.keys import BlockKey, derive_key


@pytest.fixture
def key() -> BlockKey:
    return derive_key(bytes(32), key_id="k", version=1, patch_size=2, channels=3)


def test_a_block_holds_its_numbers_channel_by_channel_row_by_row() -> None:
    images = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    blocks = to_blocks(images, 2)

    assert blocks.shape == (2, 2, 3, 12)
    for n, row, column in np.ndindex(2, 2, 3):
        patch = images[n, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert_array_equal(blocks[n, row, column], patch.ravel())


def test_encryption_multiplies_every_block_by_the_matrix(key: BlockKey) -> None:
    images = np.random.default_rng(0).standard_normal((1, 3, 4, 4))
    blocks, encrypted = to_blocks(images, 2), encrypt(images, key)

    for place in np.ndindex(1, 2, 2):
        block = blocks[place]
        expected = [
            sum(a * x for a, x in zip(row, block, strict=True)) for row in key.matrix
        ]
        np.testing.assert_allclose(encrypted[place], expected, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_the_images_own(key: BlockKey, dtype: type) -> None:
    encrypted = encrypt(np.ones((1, 3, 2, 2), dtype=dtype), key)

    assert encrypted.dtype == dtype
    assert decrypt(encrypted, key).dtype == dtype


def test_no_images_are_no_blocks(key: BlockKey) -> None:
    assert encrypt(np.zeros((0, 3, 4, 4)), key).shape == (0, 2, 2, 12)


@pytest.mark.parametrize(
    "shape", [(1, 3, 3, 4), (1, 3, 4, 5), (3, 4, 4), (1, 1, 3, 4, 4)]
)
def test_images_that_do_not_split_are_refused(
    key: BlockKey, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError):
        encrypt(np.zeros(shape), key)


def test_images_of_other_channels_are_refused(key: BlockKey) -> None:
    with pytest.raises(ShapeError, match="expected 3 channels, got 1"):
        encrypt(np.zeros((1, 1, 4, 4)), key)


@pytest.mark.parametrize("patch_size", [0, -2])
def test_patches_of_no_size_are_refused(patch_size: int) -> None:
    with pytest.raises(ShapeError):
        to_blocks(np.zeros((1, 3, 4, 4)), patch_size)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.complex128, bool])
def test_anything_but_floats_is_refused(key: BlockKey, dtype: type) -> None:
    with pytest.raises(DtypeError):
        encrypt(np.zeros((1, 3, 4, 4), dtype=dtype), key)
    with pytest.raises(DtypeError):
        decrypt(np.zeros((1, 2, 2, 12), dtype=dtype), key)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_is_refused(key: BlockKey, bad: float) -> None:
    images = np.zeros((2, 3, 4, 4))
    images[1, 2, 3, 3] = bad

    with pytest.raises(NonFiniteError):
        encrypt(images, key)
    with pytest.raises(NonFiniteError):
        decrypt(to_blocks(np.zeros_like(images), 2) + bad, key)


def test_blocks_of_another_key_are_refused(key: BlockKey) -> None:
    with pytest.raises(KeyMismatchError, match="blocks of 48, a key for 12"):
        decrypt(np.zeros((1, 2, 2, 48)), key)


def test_blocks_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError):
        from_blocks(np.zeros((1, 2, 2, 12)), 4, 3)

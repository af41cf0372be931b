"""The transform against its definition; its digest; what it refuses."""

import hashlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from core.errors import DtypeError, KeyMismatchError, NonFiniteError, ShapeError
from core.keys import BlockKey, derive_key
from core.transform import (
    embed,
    embedding_digest,
    flatten_embedding,
    transform_embedding,
)


@pytest.fixture
def key() -> BlockKey:
    return derive_key(bytes(32), key_id="k", version=1, patch_size=2, channels=3)


@pytest.fixture
def weight() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 3, 2, 2), dtype=np.float32)


def test_the_transform_is_the_product_of_its_definition(
    key: BlockKey, weight: np.ndarray
) -> None:
    """`W A^T` by BLAS in float64, which rounds to the same float32 or its neighbour."""
    expected = (weight.reshape(7, 12).astype(np.float64) @ key.matrix.T).astype(
        np.float32
    )
    transformed = transform_embedding(weight, key)

    assert transformed.dtype == np.float32
    np.testing.assert_array_max_ulp(transformed, expected, maxulp=1)


def test_transforming_gives_away_no_row_of_the_plain_embedding(
    key: BlockKey, weight: np.ndarray
) -> None:
    plain = flatten_embedding(weight)

    assert np.abs(transform_embedding(weight, key) - plain).max(axis=1).min() > 0.1


def test_the_norms_of_rows_are_kept(key: BlockKey, weight: np.ndarray) -> None:
    plain = np.linalg.norm(flatten_embedding(weight), axis=1)

    assert_allclose(
        np.linalg.norm(transform_embedding(weight, key), axis=1), plain, 1e-6
    )


@pytest.mark.parametrize(
    "shape", [(7, 1, 2, 2), (7, 3, 4, 4), (7, 3, 2, 4), (7, 12, 1, 1)]
)
def test_a_model_of_another_patch_or_other_channels_is_refused(
    key: BlockKey, shape: tuple[int, ...]
) -> None:
    """Twelve channels of one pixel have the key's D, and are refused all the same."""
    with pytest.raises(KeyMismatchError):
        transform_embedding(np.zeros(shape, dtype=np.float32), key)


def test_a_weight_that_is_no_kernel_is_refused(key: BlockKey) -> None:
    with pytest.raises(ShapeError):
        transform_embedding(np.zeros((7, 12), dtype=np.float32), key)
    with pytest.raises(DtypeError):
        transform_embedding(np.zeros((7, 3, 2, 2)), key)
    with pytest.raises(NonFiniteError):
        transform_embedding(np.full((7, 3, 2, 2), np.nan, dtype=np.float32), key)


def test_embedding_adds_the_bias_to_the_product() -> None:
    blocks = np.array([[[[1.0, 2.0]]]])
    weight = np.array([[3.0, 4.0], [5.0, 6.0], [0.0, 1.0]])

    assert_array_equal(
        embed(blocks, weight, np.array([0.5, 0, -2])), [[[[11.5, 17, 0]]]]
    )


def test_blocks_of_another_model_are_refused() -> None:
    with pytest.raises(KeyMismatchError):
        embed(np.zeros((1, 2, 2, 48)), np.zeros((7, 12)), np.zeros(7))
    with pytest.raises(ShapeError):
        embed(np.zeros((1, 2, 2, 12)), np.zeros((7, 12)), np.zeros(6))


def test_the_digest_is_the_documented_hash() -> None:
    matrix = np.array([[1, 2, 3]], dtype=np.float32)
    shape = b"\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03"
    numbers = bytes.fromhex("0000803f 00000040 00004040")
    expected = hashlib.sha256(b"keymixer.v1/embedding\x00" + shape + numbers).digest()

    assert embedding_digest(matrix) == expected


def test_the_digest_tells_shapes_apart() -> None:
    numbers = np.zeros((2, 6), dtype=np.float32)

    assert embedding_digest(numbers) != embedding_digest(numbers.reshape(3, 4))
    with pytest.raises(DtypeError):
        embedding_digest(numbers.astype(np.float64))

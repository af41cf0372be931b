"""Three forms of the same blocks, each read with suspicion."""

import inspect
import math

import numpy as np
import pytest

from core.blocks import encrypt
from core.encoding import DATATYPES, WIDTHS, decode, encode, uint8_step
from core.errors import DtypeError, NonFiniteError, TooLargeError, TruncatedError
from core.keys import derive_key
from core.preprocessing import Preprocessing, normalise
from core.shield import HighPass, Noise

CIFAR = Preprocessing(32, 32, 3, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
STEP = uint8_step(CIFAR, 48)
BLOCKS = np.random.default_rng(3).normal(size=(5, 2, 2, 48)).astype(np.float32)


@pytest.mark.parametrize(
    ("datatype", "error"), [("FP32", 0.0), ("FP16", 2**-11 * 4), ("UINT8", STEP * 0.51)]
)
def test_what_was_packed_is_unpacked_as_float32(datatype: str, error: float) -> None:
    data = encode(BLOCKS, datatype, STEP)
    found = decode(data, BLOCKS.shape, datatype, STEP)

    assert BLOCKS.size * WIDTHS[datatype] == len(data)
    assert found.dtype == np.float32
    assert np.abs(BLOCKS - found).max() <= error
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_float32_is_not_copied() -> None:
    data = encode(BLOCKS, "FP32", STEP)

    assert np.shares_memory(
        decode(data, BLOCKS.shape, "FP32", STEP), np.frombuffer(data, np.uint8)
    )


def test_a_byte_is_the_rounded_number_of_steps_and_128() -> None:
    numbers = np.array([[[[0, 1, -1, 2.4, 999, -999]]]], np.float32) * np.float32(STEP)

    assert [128, 129, 127, 130, 255, 0] == list(encode(numbers, "UINT8", STEP))
    found = decode(bytes([128, 255, 0]), (3,), "UINT8", STEP)
    np.testing.assert_allclose(np.array([0, 127, -128]) * STEP, found, rtol=1e-6)


def test_the_step_is_the_formulas_and_knows_nothing_of_pictures() -> None:
    """By hand, for one channel of mean 0.25 and deviation 0.5: r = 1.5."""
    grey = Preprocessing(8, 8, 1, (0.25,), (0.5,))

    assert math.isclose(3 * 1.5 / 127, uint8_step(grey, 16))
    assert math.isclose(2 * 1.5 / 127, uint8_step(grey, 4))
    assert ["preprocessing", "dimension", "shield"] == list(
        inspect.signature(uint8_step).parameters
    )


def test_the_step_covers_what_a_shield_adds_and_what_it_gathers() -> None:
    """By hand: r^2 = 1.5^2 + (0.5 / 0.5)^2; four numbers become three, no longer."""
    grey = Preprocessing(8, 8, 1, (0.25,), (0.5,))
    noise = Noise(4, 0.5, grey.std)
    high_pass = HighPass.of(np.full((1, 4), 0.5, np.float32), 2)

    assert math.isclose(3 * math.sqrt(3.25) / 127, uint8_step(grey, 16, noise))
    assert math.isclose(
        math.sqrt(3) * 1.5 * math.sqrt(4 / 3) / 127, uint8_step(grey, 3, high_pass)
    )


@pytest.mark.parametrize("white", [0.0, 1.0, 0.5])
def test_few_numbers_are_clipped_even_of_the_most_extreme_pictures(
    white: float,
) -> None:
    drawn = np.random.default_rng(1).random((200, 32, 32, 3)) < white
    pixels = np.where(drawn, 255, 0).astype(np.uint8)
    clipped = []
    for seed in range(5):
        key = derive_key(
            bytes([seed]) * 32, key_id="k", version=1, patch_size=4, channels=3
        )
        blocks = encrypt(normalise(pixels, CIFAR), key)
        clipped.append((np.abs(blocks) > 127.5 * STEP).mean())

    assert np.mean(clipped) < 0.01


@pytest.mark.parametrize("datatype", WIDTHS)
@pytest.mark.parametrize("more", [-1, 1])
def test_bytes_that_are_too_few_or_too_many_are_refused(
    datatype: str, more: int
) -> None:
    data = bytes(BLOCKS.size * WIDTHS[datatype] + more)

    with pytest.raises(TruncatedError):
        decode(data, BLOCKS.shape, datatype, STEP)


@pytest.mark.parametrize("datatype", WIDTHS)
def test_too_many_bytes_are_refused_before_they_are_read(datatype: str) -> None:
    with pytest.raises(TooLargeError):
        decode(b"", (1 << 30, 4), datatype, STEP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", WIDTHS)
def test_no_number_that_is_none_is_sent(datatype: str, bad: float) -> None:
    with pytest.raises(NonFiniteError):
        encode(np.array([1, bad], np.float32), datatype, STEP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_half_that_is_none_is_received(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        decode(np.array([1, bad], "<f2").tobytes(), (2,), "FP16", STEP)


def test_a_number_too_large_for_a_half_is_not_sent() -> None:
    with pytest.raises(NonFiniteError):
        encode(np.array([1e6], np.float32), "FP16", STEP)


@pytest.mark.parametrize("datatype", ["", "BF16", "INT8", "fp32", "float32"])
def test_another_datatype_is_neither_sent_nor_read(datatype: str) -> None:
    with pytest.raises(DtypeError):
        encode(BLOCKS, datatype, STEP)
    with pytest.raises(DtypeError):
        decode(b"", (1,), datatype, STEP)


@pytest.mark.parametrize("datatype", WIDTHS)
def test_only_float32_is_packed(datatype: str) -> None:
    with pytest.raises(DtypeError):
        encode(BLOCKS.astype(np.float64), datatype, STEP)


def test_people_write_the_names_of_numpy() -> None:
    assert {"float32": "FP32", "float16": "FP16", "uint8": "UINT8"} == dict(DATATYPES)

"""Pixels to numbers and back, and pictures of every kind to pixels."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from core.datasets.images import fit
from core.errors import (
    ConfigurationError,
    DtypeError,
    NonFiniteError,
    NotAnImageError,
    ShapeError,
)
from core.preprocessing import Preprocessing, denormalise, normalise

COLOUR = Preprocessing(4, 6, 3, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
GREY = Preprocessing(8, 8, 1, (0.5,), (0.5,))


@given(arrays(np.uint8, (2, 4, 6, 3), elements=st.integers(0, 255)))
def test_denormalise_undoes_normalise_pixel_for_pixel(pixels: np.ndarray) -> None:
    assert_array_equal(denormalise(normalise(pixels, COLOUR), COLOUR), pixels)


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    pixels = np.full((1, 4, 6, 3), 51, dtype=np.uint8)
    images = normalise(pixels, COLOUR)

    assert images.shape == (1, 3, 4, 6)
    assert images.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(COLOUR.mean, COLOUR.std, strict=True)):
        assert_allclose(images[0, channel], (0.2 - mean) / std, rtol=1e-5)


def test_what_is_out_of_range_is_clipped_for_the_eye() -> None:
    images = np.zeros((1, 1, 8, 8), dtype=np.float32)
    images[0, 0, 0, :2] = 9, -9

    assert_array_equal(denormalise(images, GREY)[0, 0, :3, 0], [255, 0, 128])


def test_pixels_of_another_type_or_shape_are_refused() -> None:
    with pytest.raises(DtypeError):
        normalise(np.zeros((1, 8, 8, 1)), GREY)
    for shape in ((8, 8, 1), (1, 8, 8, 3), (1, 1, 8, 8), (1, 8, 7, 1)):
        with pytest.raises(ShapeError):
            normalise(np.zeros(shape, dtype=np.uint8), GREY)
    with pytest.raises(ShapeError):
        denormalise(np.zeros((1, 8, 8, 1), dtype=np.float32), GREY)
    with pytest.raises(NonFiniteError):
        denormalise(np.full((1, 1, 8, 8), np.nan, dtype=np.float32), GREY)


def test_preprocessing_survives_json() -> None:
    entries = json.loads(json.dumps(COLOUR.to_dict()))

    assert Preprocessing.from_dict(entries) == COLOUR


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 0),
        ("width", 1.5),
        ("channels", True),
        ("channels", 1),
        ("mean", [0.5, 0.5]),
        ("mean", "0.5"),
        ("mean", None),
        ("mean", [0.5, 0.5, float("nan")]),
        ("std", [0.5, 0.5, 0.0]),
        ("std", [0.5, 0.5, -1]),
        ("std", [0.5, 0.5, "1"]),
        ("std", [0.5, 0.5, True]),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError):
        Preprocessing.from_dict({**COLOUR.to_dict(), name: value})


def test_a_resize_survives_json_and_is_not_named_where_there_is_none() -> None:
    resized = replace(COLOUR, resize=max(COLOUR.height, COLOUR.width) + 1)
    entries = json.loads(json.dumps(resized.to_dict()))

    assert Preprocessing.from_dict(entries) == resized
    assert "resize" not in COLOUR.to_dict()


@pytest.mark.parametrize("value", [0, 1, None, True, 2.5, "233", 1 << 17])
def test_a_resize_covers_the_size_or_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="resize"):
        Preprocessing.from_dict({**COLOUR.to_dict(), "resize": value})


def test_missing_and_unknown_fields_are_named() -> None:
    entries = COLOUR.to_dict()
    del entries["std"]

    with pytest.raises(ConfigurationError, match="gamma, std"):
        Preprocessing.from_dict({**entries, "gamma": 2})


# --- pictures ---


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("p", [COLOUR, GREY])
def test_pictures_of_every_mode_fit(mode: str, p: Preprocessing) -> None:
    pixels = fit(Image.new(mode, (50, 31)), p)

    assert pixels.shape == (p.height, p.width, p.channels)
    assert pixels.dtype == np.uint8


def test_a_picture_of_the_models_size_keeps_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)

    assert_array_equal(fit(Image.fromarray(pixels), COLOUR), pixels)


def test_the_centre_is_kept() -> None:
    """White wings left and right of a black square are cropped away."""
    wide = Image.new("L", (32, 8), 255)
    wide.paste(0, (12, 0, 20, 8))

    assert fit(wide, GREY).max() == 0


def test_a_picture_turned_by_its_camera_is_turned_back() -> None:
    upright = Image.new("L", (8, 8), 0)
    upright.paste(255, (0, 0, 8, 4))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    upright.rotate(180).save(file, "png", exif=exif)

    assert_array_equal(fit(Image.open(file), GREY)[:, :, 0], np.asarray(upright))


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    """Scanners and X-ray machines write them; Pillow alone turns most of them white."""
    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "png")

    assert_array_equal(
        fit(Image.open(file), GREY)[:, :, 0], (ramp >> 8).astype(np.uint8)
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_without_a_known_white_is_refused(mode: str) -> None:
    with pytest.raises(NotAnImageError, match="no known white"):
        fit(Image.new(mode, (8, 8)), GREY)


def test_a_picture_cut_short_is_refused() -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "png")
    half = io.BytesIO(file.getvalue()[: file.tell() // 2])

    with pytest.raises(NotAnImageError, match="cut short"):
        fit(Image.open(half), COLOUR)


def test_a_model_of_five_channels_reads_no_pictures() -> None:
    infrared = Preprocessing(4, 4, 5, (0.5,) * 5, (0.5,) * 5)

    with pytest.raises(ConfigurationError, match="5"):
        fit(Image.new("RGB", (4, 4)), infrared)

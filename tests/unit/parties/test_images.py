"""A person's files become pixels, or are refused by name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import NotAnImageError
from core.preprocessing import Preprocessing
from parties.data_owner.images import read_images

COLOUR = Preprocessing(32, 32, 3, mean=(0.5,) * 3, std=(0.25,) * 3)
GREY = Preprocessing(8, 8, 1, mean=(0.5,), std=(0.25,))


def half_red(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, size[0], size[1] // 2))
    return image


def test_a_picture_of_the_right_size_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    (read,) = read_images([tmp_path / "a.png"], COLOUR)

    assert np.array_equal(pixels, read)


def test_a_large_photo_is_resized_and_cropped_to_its_middle(tmp_path: Path) -> None:
    half_red((300, 200)).save(tmp_path / "photo.jpg", quality=95)

    (read,) = read_images([tmp_path / "photo.jpg"], COLOUR)

    assert (32, 32, 3) == read.shape
    assert read[2, 16, 0] > 240
    assert read[29, 16, 2] > 240


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: the camera was turned; the viewer turns it clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    half_red().save(tmp_path / "turned.jpg", exif=exif, quality=95)

    (read,) = read_images([tmp_path / "turned.jpg"], COLOUR)

    assert read[16, 29, 0] > 240  # red, above before, is now on the right
    assert read[16, 2, 2] > 240


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_every_kind_of_png_is_read(tmp_path: Path, mode: str) -> None:
    half_red().convert(mode).save(tmp_path / "kind.png")

    assert read_images([tmp_path / "kind.png"], COLOUR).shape == (1, 32, 32, 3)
    assert read_images([tmp_path / "kind.png"], GREY).shape == (1, 8, 8, 1)


def test_16_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "scan.png")

    (read,) = read_images([tmp_path / "scan.png"], GREY)

    assert np.array_equal(ramp >> 8, read[..., 0])


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a text",
        encoded(half_red(), "PNG")[:60],
        encoded(half_red((200, 200)), "JPEG")[:400],
        encoded(half_red(), "GIF"),
        encoded(half_red(), "BMP"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "GIF", "BMP"],
)
def test_what_is_no_png_or_jpeg_is_refused_by_name(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "cat.png").write_bytes(content)

    with pytest.raises(NotAnImageError, match=r"cat\.png: not a readable PNG or JPEG"):
        read_images([tmp_path / "cat.png"], COLOUR)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAnImageError, match=r"gone\.png: no such file"):
        read_images([tmp_path / "gone.png"], COLOUR)


@pytest.mark.parametrize("side", [9_500, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path, side: int) -> None:
    """A PNG whose header promises far more pixels than the file has bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tmp_path / "bomb.png").write_bytes(content)

    with pytest.raises(NotAnImageError, match="more than 80000000 pixels"):
        read_images([tmp_path / "bomb.png"], COLOUR)


def test_no_files_are_no_images() -> None:
    with pytest.raises(NotAnImageError):
        read_images([], COLOUR)

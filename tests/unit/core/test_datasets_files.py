"""Datasets from the user's own files, and scikit-learn's digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from core.datasets import Dataset, load
from core.datasets.source import dataset, held_out
from core.errors import CorruptFileError, DataError, NotAnImageError
from core.preprocessing import Preprocessing
from parties.data_owner.images import read_images


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def paint(path: Path, colour: tuple[int, int, int], size: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(10):
        paint(tmp_path / "photos" / "red" / f"{index}.png", (200 + index, 0, 0))
        paint(tmp_path / "photos" / "blue" / f"{index}.png", (0, 0, 200 + index))
    (tmp_path / "photos" / "red" / "notes.txt").write_text("not a picture")
    return tmp_path / "photos"


def test_a_folder_is_split_by_class_and_name_order(folder: Path) -> None:
    """The last fifth of each class, and nothing of it on both sides."""
    train, test = load(folder, "train"), load(folder, "test")

    assert ("blue", "red") == train.classes == test.classes
    assert train.labels.tolist() == [0] * 8 + [1] * 8
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert [tuple(image[0, 0].tolist()) for image in test.images] == [
        (0, 0, 208),
        (0, 0, 209),
        (208, 0, 0),
        (209, 0, 0),
    ]


def test_a_folder_with_its_own_split_keeps_it(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "a" / "1.png", (1, 1, 1))
    paint(tmp_path / "train" / "b" / "1.png", (2, 2, 2))
    paint(tmp_path / "test" / "a" / "1.png", (3, 3, 3))
    paint(tmp_path / "test" / "b" / "1.jpg", (4, 4, 4))

    assert load(tmp_path, "train").images[:, 0, 0, 0].tolist() == [1, 2]
    assert load(tmp_path, "test").images[:, 0, 0, 0].tolist() == [3, 4]


def test_pictures_of_a_folder_get_the_wanted_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(2):
            paint(tmp_path / name / f"{index}.png", (9, 9, 9), size=50 + index)

    assert load(tmp_path, "train", size=(16, 24)).images.shape == (2, 16, 24, 3)


def test_a_folder_without_classes_says_what_to_do(tmp_path: Path) -> None:
    paint(tmp_path / "only" / "1.png", (1, 1, 1))

    with pytest.raises(DataError, match="a subfolder of its own"):
        load(tmp_path, "train")


def test_a_folder_with_a_text_file_named_png_is_refused(folder: Path) -> None:
    (folder / "red" / "0.png").write_text("not a picture")

    with pytest.raises(NotAnImageError, match=r"0\.png: not a readable"):
        load(folder, "train")


@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_an_npz_with_two_splits_keeps_them(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    train, test = pixels(6, 8, 8, 3), pixels(3, 8, 8, 3)
    labels = np.arange(6, dtype=np.uint8) % 3
    arrays: dict[str, Any] = dict(
        zip(names, (train, labels, test, labels[:3]), strict=True)
    )
    np.savez(tmp_path / "set.npz", **arrays, class_names=np.array(["x", "y", "z"]))

    loaded = load(tmp_path / "set.npz", "test")

    assert np.array_equal(test, loaded.images)
    assert loaded.classes == ("x", "y", "z")
    assert loaded.labels.dtype == np.int64


def test_an_npz_with_one_pair_is_split(tmp_path: Path) -> None:
    images, labels = pixels(10, 8, 8), np.repeat([0, 1], 5).reshape(-1, 1)
    np.savez(tmp_path / "set.npz", images=images, labels=labels)

    train, test = (load(tmp_path / "set.npz", split) for split in ("train", "test"))

    assert train.images.shape == (8, 8, 8, 1)
    assert np.array_equal(images[[4, 9], ..., np.newaxis], test.images)
    assert test.classes == ("0", "1")


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 and no more")

    with pytest.raises(CorruptFileError, match="not a readable"):
        load(tmp_path / "set.npz", "train")


def test_an_npz_with_a_pickle_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.array([{}]), labels=np.zeros(1, int))

    with pytest.raises(CorruptFileError):
        load(tmp_path / "set.npz", "train")


def test_an_npz_with_other_names_says_which_are_understood(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", pictures=pixels(2, 8, 8))

    with pytest.raises(DataError, match=r"pictures.*train_images"):
        load(tmp_path / "set.npz", "train")


def test_an_unknown_name_says_what_is_understood() -> None:
    with pytest.raises(DataError, match="neither `cifar10` nor `digits`"):
        load("no-such-thing", "train")


@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, int), "float32"),
        (pixels(2, 4, 4, 4), np.zeros(2, int), "1 or 3"),
        (pixels(2, 4, 4, 3), np.zeros(3, int), "2 images but 3 labels"),
        (pixels(2, 4, 4, 3), np.array([0, 2]), "outside 0..1"),
        (pixels(2, 4, 4, 3), np.zeros(2), "one integer"),
        (pixels(0, 4, 4, 3), np.zeros(0, int), "no images"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused(
    images: np.ndarray, labels: np.ndarray, why: str
) -> None:
    with pytest.raises(DataError, match=why):
        dataset("test", images, labels, ("a", "b"))


def test_the_digest_changes_with_pixels_labels_and_names() -> None:
    images, labels = pixels(4, 4, 4, 3), np.array([0, 1, 0, 1])
    other = images.copy()
    other[0, 0, 0, 0] ^= 1

    digests = {
        made.digest
        for made in (
            dataset("one", images, labels, ("a", "b")),
            dataset("same under another name", images, labels, ("a", "b")),
            dataset("pixels", other, labels, ("a", "b")),
            dataset("labels", images, labels[::-1], ("a", "b")),
            dataset("classes", images, labels, ("a", "c")),
        )
    }

    assert len(digests) == 4


def test_a_dataset_does_not_change() -> None:
    made = dataset("test", pixels(2, 4, 4, 3), np.array([0, 1]), ("a", "b"))

    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0


def test_every_class_is_held_out_but_never_wholly() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])

    held = held_out(labels)

    assert [int(held[labels == label].sum()) for label in range(3)] == [2, 1, 0]


def test_digits_are_whole_and_in_order() -> None:
    train, test = load("digits", "train"), load("digits", "test")

    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == (8, 8, 1)
    assert train.images.max() == 255
    assert isinstance(test, Dataset)
    assert set(range(10)) == set(test.labels.tolist())


# --- a resize before the crop ---


def by_hand(image: Image.Image, side: int, resize: int) -> np.ndarray:
    """timm's evaluation transform, step by step: the shorter side, then the centre."""
    short = min(image.size)
    wide, high = (int(resize * length / short) for length in image.size)
    scaled = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    top, left = round((high - side) / 2.0), round((wide - side) / 2.0)
    return scaled[top : top + side, left : left + side]


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (233, 233), (224, 224), (77, 301), (1, 1)]
)
def test_trainer_and_owner_cut_the_same_pixels_by_way_of_a_resize(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Bit for bit, and as who published the weights evaluated them."""
    for name in ("a", "b"):
        image = Image.fromarray(pixels(size[1], *size[::-1], 3)[0])
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
    imagenet = Preprocessing(224, 224, 3, (0.5,) * 3, (0.25,) * 3, resize=233)
    trainer = load(tmp_path, "train", size=(224, 224), resize=233)
    owner = read_images([tmp_path / "a" / "0.png", tmp_path / "b" / "0.png"], imagenet)

    assert_array_equal(trainer.images, owner)
    assert_array_equal(owner[0], by_hand(image, 224, 233))


def test_a_strip_that_would_fill_the_memory_once_scaled_is_refused(
    tmp_path: Path,
) -> None:
    Image.new("L", (4000, 1)).save(tmp_path / "strip.png")
    imagenet = Preprocessing(224, 224, 1, (0.5,), (0.25,), resize=233)

    with pytest.raises(NotAnImageError, match="too long"):
        read_images([tmp_path / "strip.png"], imagenet)

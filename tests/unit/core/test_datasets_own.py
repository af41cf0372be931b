"""A user's own dataset, named `MODULE:CLASS`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import image_size, load, name_of
from core.errors import ConfigurationError, DataError

MODULE = """
from pathlib import Path

import numpy as np


class Squares:
    '''Grey pixels, brighter in the second class.'''

    classes = ("dark", "bright")

    def examples(self, split):
        for number in range(6 if split == "train" else 2):
            label = number % 2
            yield np.full((8, 6), 40 + 100 * label + number, np.uint8), label


class Unequal(Squares):
    def examples(self, split):
        yield np.zeros((4, 4, 3), np.uint8), 0
        yield np.zeros((4, 5, 3), np.uint8), 1


class Files(Squares):
    def examples(self, split):
        for label, path in enumerate(sorted(Path("files").iterdir())):
            yield path, label


class Floats(Squares):
    def examples(self, split):
        yield np.zeros((4, 4)), 0


class Four(Squares):
    def examples(self, split):
        yield np.zeros((4, 4, 4), np.uint8), 0


class Nothing(Squares):
    def examples(self, split):
        return []


class Pictures:
    pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a user works in, with a module of the user's."""
    (tmp_path / "shapes_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    # What a test imports is another one's in the next.
    monkeypatch.delitem(sys.modules, "shapes_of_mine", raising=False)
    return tmp_path


def test_a_class_of_the_users_is_a_dataset() -> None:
    train = load("shapes_of_mine:Squares", "train")

    assert (6, 8, 6, 1) == train.images.shape
    assert train.images[:, 0, 0, 0].tolist() == [40, 141, 42, 143, 44, 145]
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert (train.name, train.classes) == ("Squares", ("dark", "bright"))
    assert len(load("shapes_of_mine:Squares", "test")) == 2


def test_its_pictures_get_the_wanted_size() -> None:
    assert load("shapes_of_mine:Squares", "test", size=(4, 4)).images.shape == (
        *(2, 4, 4),
        1,
    )
    assert load("shapes_of_mine:Unequal", "test", size=(4, 4)).images.shape[0] == 2


def test_its_files_are_those_of_a_folder(here: Path) -> None:
    """The same pictures, in the same order, are the same dataset, digest and all."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 50, 41, 3), np.uint8)
    for number, name in enumerate("ab"):
        for place in (here / "files", here / "folder" / "train" / name):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(place / f"{name}.png")
    (here / "folder" / "test").mkdir()
    for name in "ab":
        (here / "folder" / "test" / name).mkdir()
    fitted = {"size": (20, 24), "resize": 30}
    mine = load("shapes_of_mine:Files", "train", size=(20, 24), resize=30)
    folder = load(here / "folder", "train", size=(20, 24), resize=30)

    assert fitted["resize"] == 30
    assert np.array_equal(mine.images, folder.images)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("shapes_of_mine:Unequal", "--image-size"),
        ("shapes_of_mine:Floats", "float64, expected uint8"),
        ("shapes_of_mine:Four", r"\[4, 4, 4\]"),
        ("shapes_of_mine:Nothing", "no images in 'train'"),
        ("shapes_of_mine:Pictures", r"expected `classes` and `examples\(split\)`"),
        ("shapes_of_mine:Absent", "Absent"),
        ("no_such_module_of_mine:Squares", "no module no_such_module_of_mine"),
    ],
)
def test_what_is_no_dataset_says_why(spec: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        load(spec, "train")


def test_a_resize_needs_a_size_to_cut_out() -> None:
    with pytest.raises(ConfigurationError, match="--image-size"):
        load("shapes_of_mine:Squares", "train", resize=9)


def test_the_current_folder_never_hides_what_is_installed(here: Path) -> None:
    """A module of the user's that is named as one of ours is not taken for it."""
    (here / "core").mkdir()
    (here / "core" / "__init__.py").write_text("raise SystemExit")
    before = list(sys.path)

    load("shapes_of_mine:Squares", "train")
    assert sys.path == before


def test_arrays_stay_as_they_are_and_must_have_the_wanted_size(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 6, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, 0, 1]))

    assert load(tmp_path / "set.npz", "train", size=(8, 6)).images.shape[1:3] == (8, 6)
    with pytest.raises(DataError, match="expected images of 16x16, got 8x6"):
        load(tmp_path / "set.npz", "train", size=(16, 16))


def test_a_size_is_a_side_or_two() -> None:
    assert [(224, 224), (192, 256), None] == [
        image_size(text) for text in ("224", "192x256", "")
    ]


@pytest.mark.parametrize("text", ["0", "-3", "32x", "x32", "32x32x3", "1.5", "big"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HEIGHTxWIDTH"):
        image_size(text)


def test_a_dataset_has_a_name_before_it_is_loaded() -> None:
    assert ["Squares", "cifar10", "cells"] == [
        name_of(spec)
        for spec in ("shapes_of_mine:Squares", "cifar10", "data/cells.npz")
    ]

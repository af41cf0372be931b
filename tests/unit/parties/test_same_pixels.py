"""Pictures of any size: a trainer and a data owner's client make the same pixels.

Bit for bit, from the same files, by what the release's manifest says alone.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from core.datasets import Dataset
from core.datasets.source import dataset
from core.manifest import Manifest
from core.preprocessing import normalise
from core.training import Examples, fit
from orchestrator.cli.__main__ import build
from parties.data_owner.images import read_images
from parties.model_provider import training
from parties.model_provider.__main__ import app

FITTED = ("--image-size", "24x16", "--resize", "29")
SMALL = (
    *("--hidden", "4", "--depth", "1", "--kernel-size", "3", "--patch-size", "4"),
    *("--batch", "4", "--pad", "1", "--seed", "1"),
)
# Width and height: wide, high, exactly the size, smaller, and a camera's.
SIZES = ((61, 40), (40, 61), (16, 24), (9, 7), (640, 480))


def photos(folder: Path, seed: int) -> dict[str, list[Path]]:
    """Two classes: PNG and JPEG, grey and colour, some held sideways by the camera."""
    draws = np.random.default_rng(seed)
    found: dict[str, list[Path]] = {}
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number, (width, height) in enumerate(SIZES):
            pixels = draws.integers(0, 256, (height, width, 3), np.uint8)
            image = Image.fromarray(pixels)
            path = folder / name / f"{number}.{'jpg' if number % 2 else 'png'}"
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1
            (image.convert("L") if number == 2 else image).save(path, exif=exif)
            found.setdefault(name, []).append(path)
    return found


def as_owner(files: dict[str, list[Path]], manifest: Manifest, of: slice) -> Dataset:
    """What a data owner's client makes of the same files."""
    chosen = [(path, label) for label, name in enumerate(files) for path in files[name]]
    split = [each for n, each in enumerate(chosen) if n % len(SIZES) in range(5)[of]]
    pixels = read_images([path for path, _ in split], manifest.preprocessing)
    labels = np.array([label for _, label in split])
    return dataset("owner", pixels, labels, tuple(files))


def manifest_in(folder: Path) -> Manifest:
    path = folder / "releases" / "classifier" / "manifest.json"
    return Manifest.from_bytes(path.read_bytes())


def test_the_trainers_arrays_are_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very arrays that are trained on, and what the lineage says was seen."""
    files = photos(tmp_path / "photos", seed=1)
    seen: list[Examples] = []

    def spied(model: Any, train: Examples, test: Examples, *rest: Any) -> Any:
        seen.extend((train, test))
        return fit(model, train, test, *rest)

    monkeypatch.setattr(training, "fit", spied)
    words = ["--folder", str(tmp_path), "--data", str(tmp_path / "photos")]
    result = CliRunner().invoke(
        app, ["train", *words, *FITTED, *SMALL, "--epochs", "1"]
    )
    manifest = manifest_in(tmp_path)
    # The last fifth of each class is the test split.
    owner = [as_owner(files, manifest, of) for of in (slice(0, 4), slice(4, 5))]

    assert result.exit_code == 0, result.output
    p = manifest.preprocessing
    assert (24, 16, 29) == (p.height, p.width, p.resize)
    assert (24, 16) == (manifest.architecture.height, manifest.architecture.width)
    for trained, asked in zip(seen, owner, strict=True):
        assert_array_equal(trained.images, normalise(asked.images, p))
        assert trained.images.tobytes() == normalise(asked.images, p).tobytes()
    named = manifest.lineage["data"]
    assert [part.digest for part in owner] == [
        named["train_digest"],
        named["test_digest"],
    ]


def test_each_sites_images_are_the_clients_too(tmp_path: Path) -> None:
    """Each site has photos of its own; the split manifest names what it saw."""
    sites = {n: photos(tmp_path / "sites" / n, i) for i, n in enumerate(("a", "b"))}
    words = ["--folder", str(tmp_path), "--data", str(tmp_path / "sites")]
    result = CliRunner().invoke(
        build(),
        [
            *("train", "--partition", "by-organisation", "--rounds", "1"),
            *(*words, *FITTED, *SMALL),
        ],
    )
    manifest = manifest_in(tmp_path)

    assert result.exit_code == 0, result.output
    assert manifest.preprocessing.resize == 29
    for named in manifest.lineage["data"]["sites"]:
        owner = as_owner(sites[named["site"]], manifest, slice(0, 4))
        assert owner.digest == named["train_digest"]


def test_without_a_resize_the_manifest_says_none(tmp_path: Path) -> None:
    files = photos(tmp_path / "photos", seed=3)
    words = ["--folder", str(tmp_path), "--data", str(tmp_path / "photos")]
    size = ["--image-size", "16", "--epochs", "1"]
    CliRunner().invoke(app, ["train", *words, *size, *SMALL])
    manifest = manifest_in(tmp_path)

    assert manifest.preprocessing.resize is None
    owner = as_owner(files, manifest, slice(0, 4))
    assert manifest.lineage["data"]["train_digest"] == owner.digest


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--image-size", "24x"), "HEIGHTxWIDTH"),
        (("--image-size", "24", "--resize", "20"), "expected at least 24"),
    ],
)
def test_a_form_that_cannot_be_is_refused(
    tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    photos(tmp_path / "photos", seed=3)
    data = ["--folder", str(tmp_path), "--data", str(tmp_path / "photos")]
    result = CliRunner().invoke(app, ["train", *data, *words, *SMALL])

    assert why in str(result.exception)
    shutil.rmtree(tmp_path / "photos")

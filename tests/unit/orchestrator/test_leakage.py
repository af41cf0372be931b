"""`keymixer leakage`: a folder of pictures in, a report and a page out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from core.architecture import Architecture
from core.convmixer import initialise, take_apart
from core.errors import DataError, ShapeError
from core.leakage.material import Material
from core.leakage.schemes.block_key import Pixels
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.wire import file_digest, save_tensors
from orchestrator.cli.__main__ import build
from orchestrator.leakage.pictures import Plan, prepare
from orchestrator.leakage.run import LOWER_BOUND

FIELDS = {
    *("name", "scheme", "setting", "images", "psnr", "ssim"),
    *("ssim_low", "ssim_high", "assumes"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty-four cuts of a photograph, as a person's own PNG files."""
    path = tmp_path_factory.mktemp("own")
    photo = load_sample_images().images[0]
    for number in range(64):
        top, left = 50 * (number // 8), 75 * (number % 8)
        Image.fromarray(photo[top : top + 48, left : left + 48]).save(
            path / f"{number}.png"
        )
    return path


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    options = ["--patch", "2", "--size", "16", "--images", "14", "--out", str(out)]
    done = CliRunner().invoke(build(), ["leakage", str(folder), *options, "--json"])
    assert done.exit_code == 0, done.output
    return out


def test_the_report_has_a_row_for_each_attack(written: Path) -> None:
    report = json.loads((written / "leakage.json").read_text())

    assert {"attacks", "coalitions", "left_out", "traces"} <= report.keys()
    assert "shield" in report
    assert {frozenset(row) for row in report["attacks"]} == {frozenset(FIELDS)}
    names = {row["name"] for row in report["attacks"]}
    assert {"norm map", "known plaintext", "ciphertext only"} <= names


def test_what_was_not_run_is_said_with_its_reason(written: Path) -> None:
    report = json.loads((written / "leakage.json").read_text())
    page = (written / "leakage.html").read_text()
    why = {row["name"]: row["why"] for row in report["left_out"]}

    assert "--thorough" in why["network trained under own keys"]
    assert "no model" in why["model only"]
    assert all(name in page and reason in page for name, reason in why.items())
    assert not why.keys() & {row["name"] for row in report["attacks"]}


def test_what_is_exact_is_exact_and_a_constant_is_not(written: Path) -> None:
    """The command's own rows have an oracle: it drew the keys itself."""
    rows = json.loads((written / "leakage.json").read_text())["attacks"]
    psnr = {(row["name"], row["setting"]): row["psnr"] for row in rows}

    assert psnr["public embedding", "the model's own"] > 90
    leaked = "two issued embeddings, one leaked key"
    assert psnr[leaked, "the other key of the same model"] > 90
    assert psnr["known plaintext", "12 known blocks of one key"] > 50
    assert psnr["constant picture", "nothing seen; the mean colour"] < 25


def test_the_page_needs_no_other_file_and_promises_nothing(written: Path) -> None:
    page = (written / "leakage.html").read_text()

    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert LOWER_BOUND in page
    assert not re.search(r"safe for \d", page)


def test_the_pages_are_for_the_owner_alone(written: Path) -> None:
    """They show the pictures."""
    modes = {path.stat().st_mode & 0o777 for path in written.iterdir()}

    assert modes == {0o600}


def test_the_attacker_has_none_of_the_owners_pictures(folder: Path) -> None:
    material = prepare(Plan(folder, size=16, patch_size=2), lambda *_: None)

    own = {one.tobytes() for one in material.own}
    assert not own & {one.tobytes() for one in material.public}


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def released(path: Path) -> np.ndarray:
    """Write a release of two classes, a and b, and return its embedding."""
    architecture = Architecture(
        hidden=16, depth=1, patch_size=2, height=16, width=16, classes=2
    )
    embedding, backbone = take_apart(initialise(architecture, 0))
    save_tensors(path / "embedding.safetensors", {"weight": embedding})
    save_tensors(path / "backbone.safetensors", backbone)
    manifest = Manifest(
        name="m",
        architecture=architecture,
        preprocessing=Preprocessing(16, 16, 3, MEAN, STD),
        classes=("a", "b"),
        metrics={},
        lineage={},
        embedding_digest=file_digest(path / "embedding.safetensors"),
        backbone_digest=file_digest(path / "backbone.safetensors"),
    )
    (path / "manifest.json").write_bytes(manifest.to_bytes())
    return embedding


def test_a_release_is_attacked_as_it_reads_pictures(
    folder: Path, tmp_path: Path
) -> None:
    embedding = released(tmp_path)

    material = prepare(Plan(folder, release=tmp_path), lambda *_: None)

    assert material.coordinates == Pixels(2, 3, MEAN, STD)
    assert np.array_equal(material.embedding, embedding.reshape(16, 12))
    assert material.served is not None
    assert material.served.architecture.hidden == 16
    assert material.crowd is None


@pytest.mark.parametrize(("classes", "labelled"), [("ab", True), ("cd", False)])
def test_labels_are_the_models_own_or_none(
    tmp_path: Path, classes: str, *, labelled: bool
) -> None:
    """Of a dataset of other classes they would mislead."""
    released(tmp_path)
    drawn = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), np.uint8)
    labels = np.arange(80) % 2
    data = tmp_path / "data.npz"
    np.savez(data, images=drawn, labels=labels, classes=list(classes))

    plan = Plan(str(data), release=tmp_path, thorough=True)
    crowd = prepare(plan, lambda *_: None).crowd

    assert crowd is not None
    assert (crowd.labels is not None) == labelled
    if crowd.labels is not None:
        pixels = np.rint(crowd.pictures * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        of = {one.tobytes(): label for one, label in zip(drawn, labels, strict=True)}
        assert [of[one.tobytes()] for one in pixels] == list(crowd.labels)


def test_a_folder_with_too_few_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 24"):
        prepare(Plan(tmp_path), lambda *_: None)


def test_pictures_that_do_not_belong_together_are_refused() -> None:
    pictures, coordinates = np.zeros((12, 3, 16, 16)), Pixels(2, 3)

    with pytest.raises(ShapeError):
        Material(pictures, pictures[..., :8], coordinates, np.zeros((4, 12)))
    with pytest.raises(ShapeError, match="embedding"):
        Material(pictures, pictures, coordinates, np.zeros((4, 48)))
    with pytest.raises(DataError, match="public"):
        Material(pictures, pictures[:3], coordinates, np.zeros((4, 12)))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["x.yaml", "--release", "folder"], "its own release"),
        (["folder", "--owner", "somebody"], "--owner is of a run"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    arguments: list[str], why: str
) -> None:
    done = CliRunner().invoke(build(), ["leakage", *arguments])

    assert done.exit_code == 2
    assert why in done.output


@pytest.mark.parametrize("arguments", [[], ["folder", "--data", "cifar10"]])
def test_a_folder_or_data_is_needed_and_not_both(arguments: list[str]) -> None:
    done = CliRunner().invoke(build(), ["leakage", *arguments])

    assert done.exit_code == 2
    assert "either a folder" in done.output

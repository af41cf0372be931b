"""`keymixer models import`: what it writes, what it says, what it ends with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from core.errors import ConfigurationError, CorruptFileError
from core.rpc.party import ensure_signing_key
from parties.model_provider.import_command import app
from parties.model_provider.release import read_release, signature_of
from tests.unit.parties.reference import Shape, locuslab, random_weights, timm

SMALL = Shape(hidden=8, depth=2, kernel=5, patch=7, classes=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(random_weights(SMALL, timm(), 1), path)
    return path


def run(*arguments: object) -> str:
    typed = [str(argument) for argument in arguments]
    done = CliRunner().invoke(app, typed, catch_exceptions=False)
    assert done.exit_code == 0
    return " ".join(done.output.split())


def run_json(*arguments: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return told


def test_an_import_writes_a_release_that_its_provider_has_signed(
    tmp_path: Path, file: Path
) -> None:
    told = run_json(file, "--arch", "convmixer_8_2_ks5", "--folder", tmp_path)
    folder = Path(told["release"])
    release = read_release(folder)

    assert folder == tmp_path / "releases" / "convmixer_8_2_ks5"
    assert signature_of(folder, release, ensure_signing_key(tmp_path))
    assert (told["naming"], told["entry"], told["activation"]) == ("timm", "", "gelu")
    assert told["sha256"] == release.manifest.lineage["imported"]["sha256"]
    assert told["public_embedding"] is True
    assert release.manifest.public_embedding


def test_a_person_is_told_what_was_taken_and_that_it_is_public(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.pth.tar"
    weights = random_weights(SMALL, locuslab(2), 1)
    wrapped = {f"module.{name}": weight for name, weight in weights.items()}
    torch.save({"epoch": 90, "state_dict_ema": wrapped}, path)
    said = run(path, "--arch", "convmixer_8_2_ks5_relu", "--folder", tmp_path)

    assert "locuslab's names from its state_dict_ema, without module. before" in said
    assert "relu, 3 classes; pictures are scaled to 233 and cut to 224x224" in said
    assert "keys for it hide nothing from the server" in said
    assert "policies.allow_public_embeddings" in said
    assert "next: python -m parties.model_provider register --folder" in said


def test_who_never_published_the_weights_says_so(tmp_path: Path, file: Path) -> None:
    asked = ("--arch", "convmixer_8_2_ks5", "--folder", tmp_path, "--never-published")
    said = run(file, *asked)

    assert "public" not in said
    release = read_release(tmp_path / "releases" / "convmixer_8_2_ks5")
    assert not release.manifest.public_embedding


def test_what_pictures_undergo_and_classes_are_taken_as_said(
    tmp_path: Path, file: Path
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("Katze\nHund\nBär\n", encoding="utf-8")
    told = run_json(
        *(file, "--arch", "convmixer_8_2_ks5", "--folder", tmp_path, "--name", "pets"),
        *("--classes", names, "--preprocessing", "cifar10", "--image-size", 28),
        *("--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2"),
    )
    manifest = read_release(Path(told["release"])).manifest

    assert manifest.name == "pets"
    assert manifest.classes == ("Katze", "Hund", "Bär")
    assert manifest.preprocessing.mean == (0.5, 0.4, 0.3)
    assert (manifest.preprocessing.height, manifest.preprocessing.resize) == (28, None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--mean", "a,b"), "--mean: expected numbers"),
        (("--mean", "0.5"), "std"),
        (("--std", "0,0,0"), "above 0"),
        (("--image-size", "30"), "patch_size"),
        (("--preprocessing", "mnist"), "imagenet, cifar10"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, file: Path, more: tuple[str, str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        run(file, "--arch", "convmixer_8_2_ks5", "--folder", tmp_path, *more)


def test_a_file_of_classes_is_text(tmp_path: Path, file: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_bytes(b"\xff\xfe")

    with pytest.raises(CorruptFileError, match="UTF-8"):
        run(file, "--arch", "convmixer_8_2_ks5", "--classes", names, "--folder", ".")


def test_of_a_run_its_only_provider_is_taken(tmp_path: Path, file: Path) -> None:
    asked = (file, "--arch", "convmixer_8_2_ks5", "--run", tmp_path)
    with pytest.raises(ConfigurationError, match="no providers"):
        run(*asked)
    (tmp_path / "providers" / "lab").mkdir(parents=True)
    assert "providers/lab/releases" in run_json(*asked)["release"]
    (tmp_path / "providers" / "mill").mkdir()
    with pytest.raises(ConfigurationError, match="lab, mill"):
        run(*asked)

"""`keymixer leakage` behind a shield: its figures, its words, and what it refuses."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.architecture import Architecture
from core.convmixer import initialise, take_apart
from core.datasets import load
from core.errors import ConfigurationError
from core.leakage.material import Material
from core.leakage.sent_pixels import SentPixels
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.shield import Shield, shielded
from core.wire import file_digest, save_tensors
from orchestrator.cli.__main__ import build
from orchestrator.leakage import pictures
from orchestrator.leakage.pictures import Plan, kept, prepare, public_count
from orchestrator.leakage.shield import KEY, LINEAR, NETWORK, attack_shield
from tests.shields import shield_named

DIGITS = Preprocessing(8, 8, 1, (0.3,), (0.35,))


def nothing(*_: object) -> None:
    """Tell nobody how far it is."""


def released(folder: Path, spec: str) -> Shield:
    """A release of a model of digits that reads what a shield leaves."""
    shield = shield_named(spec, load("digits", "train").images, DIGITS, 2)
    plain = Architecture(
        *(16, 1), patch_size=2, channels=1, height=8, width=8, classes=10
    )
    architecture = shielded(plain, shield)
    embedding, backbone = take_apart(initialise(architecture, 0))
    folder.mkdir()
    save_tensors(folder / "embedding.safetensors", {"weight": embedding})
    save_tensors(folder / "backbone.safetensors", backbone)
    manifest = Manifest(
        name="digits",
        architecture=architecture,
        preprocessing=DIGITS,
        classes=tuple("0123456789"),
        metrics={},
        lineage={},
        embedding_digest=file_digest(folder / "embedding.safetensors"),
        backbone_digest=file_digest(folder / "backbone.safetensors"),
        shield=shield,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return shield


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """Not twenty thousand public pictures: these tests are quick."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pictures, "MANY", 128)
        yield


@pytest.fixture(scope="module")
def noisy(few: None, tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("noisy") / "release"
    released(folder, "noise:0.2")
    return prepare(Plan("digits", release=folder), nothing)


def test_a_release_is_attacked_behind_its_shield(few: None, tmp_path: Path) -> None:
    shield = released(tmp_path / "release", "highpass:1")
    out = ["--out", str(tmp_path / "out"), "--json"]
    options = ["--data", "digits", "--release", str(tmp_path / "release"), *out]

    done = CliRunner().invoke(build(), ["leakage", *options])

    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "leakage.json").read_text())
    found = report["shield"]
    assert (found["spec"], found["kind"]) == (shield.spec, "highpass")
    assert (found["numbers"], found["sent"], report["dimension"]) == (4, 3, 3)
    assert 0.05 < found["variance_left"] < 0.9
    assert found["public_images"] == 128
    assert [row["name"] for row in found["attacks"]] == [LINEAR]
    assert found["attacks"][0].keys() == report["attacks"][0].keys()
    assert [row["name"] for row in found["left_out"]] == [NETWORK]
    assert {row["scheme"] for row in report["attacks"]} == {
        "random orthogonal, highpass:1"
    }
    page = (tmp_path / "out" / "leakage.html").read_text()
    assert "what the right key gives" in page
    assert "--thorough runs it" in page


def test_noise_of_a_release_is_in_what_is_attacked(noisy: Material) -> None:
    """And the estimate smooths some of it away."""
    facts, (linear,) = attack_shield(noisy)
    assert noisy.crowd is not None

    assert isinstance(noisy.coordinates, SentPixels)
    assert (facts["sigma"], facts["sent"], facts["variance_left"]) == (0.2, 4, 1.0)
    apart = linear.seen - np.clip(noisy.own[: len(linear.seen)], 0, 1)
    assert apart.std() > 0.05
    assert linear.fidelity.psnr > 10
    assert linear.fidelity.ssim < 0.95


def test_with_torch_and_time_a_network_goes_on_from_there(noisy: Material) -> None:
    """Of so few pictures it learns little; it is run, and no worse than a guess."""
    facts, found = attack_shield(replace(noisy, thorough=True))

    assert facts["left_out"] == []
    assert [each.name for each in found] == [LINEAR, NETWORK]
    assert found[1].fidelity.ssim > 0.3
    assert "learned of 128 pictures" in found[1].setting


def test_without_a_shield_the_key_opens_everything(tmp_path: Path) -> None:
    material = prepare(Plan("digits", size=16, patch_size=2), nothing)
    facts, (row,) = attack_shield(material)

    assert (facts["spec"], facts["variance_left"]) == ("none", 1.0)
    assert (facts["numbers"], facts["sent"]) == (12, 12)
    assert row.name == KEY
    assert row.fidelity.ssim == pytest.approx(1.0)


def test_a_shield_can_be_tried_before_training(few: None) -> None:
    """On pictures of another size than the dataset's, too: they are scaled."""
    plan = Plan("digits", size=16, patch_size=2, shield="highpass:4")
    material = prepare(plan, nothing)

    assert material.own.shape[1:] == (3, 16, 16)
    assert material.coordinates.dimension == 8
    assert material.embedding.shape == (256, 8)
    facts, _ = attack_shield(material)
    assert facts["variance_left"] < 0.2


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (Plan("digits", shield="lowpass:3"), "noise:SIGMA or magnitude:K"),
        (Plan("digits", shield="highpass:48"), "48 numbers"),
        (Plan("digits", patch_size=5), "do not split into 5x5"),
        (Plan("digits", patch_size=2, size=256), "4096 blocks"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_reading(
    plan: Plan, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        prepare(plan, nothing)


def test_a_release_has_its_own_shield(tmp_path: Path) -> None:
    released(tmp_path / "release", "highpass:1")
    plan = Plan("digits", release=tmp_path / "release", shield="noise:0.1")

    with pytest.raises(ConfigurationError, match="its own"):
        prepare(plan, nothing)
    arguments = ["leakage", "--data", "digits", "--shield", "noise:1"]
    done = CliRunner().invoke(build(), [*arguments, "--release", str(tmp_path)])
    assert done.exit_code == 2
    assert "its own shield" in done.output


def test_large_pictures_are_fewer() -> None:
    """A hundred of 224x224, so that memory is bounded; of small ones many."""
    photo = Preprocessing(224, 224, 3, (0.0,) * 3, (1.0,) * 3)

    assert kept(500, photo) == 100
    assert kept(24, photo) == 24
    assert public_count(photo, learning=True) == 100
    assert public_count(DIGITS, learning=False) == pictures.PUBLIC
    assert public_count(DIGITS, learning=True) == pictures.MANY

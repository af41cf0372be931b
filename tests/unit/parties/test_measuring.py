"""A release that was trained here is measured; another one on request, signed again."""

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from core.datasets import Dataset, load
from core.datasets.source import dataset
from core.errors import DataError
from core.statements import MANIFEST, verify
from core.wire import read_file
from parties.model_provider.__main__ import app
from parties.model_provider.alone import plan_of, train_alone
from parties.model_provider.measuring import card_of, in_words, measured_on
from parties.model_provider.release import add_card, read_release, signature_of
from parties.model_provider.reporting import JsonReporter
from parties.model_provider.training import preprocessing_of

SMALL = {
    "name": "digits",
    "hidden": 4,
    "depth": 1,
    "kernel_size": 3,
    "patch_size": 2,
    "epochs": 1,
    "batch": 400,
    "pad": 0,
    "flip": False,
}


def part_of(whole: Dataset, count: int) -> Dataset:
    return dataset(
        whole.name, whole.images[:count], whole.labels[:count], whole.classes
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provider")
    return train_alone(plan_of(**SMALL), "digits", folder, JsonReporter())[1]


def test_what_is_trained_is_measured_and_its_signed_manifest_says_so(
    released: Path,
) -> None:
    manifest = read_release(released).manifest

    assert manifest.leakage is not None
    assert manifest.leakage.images == 24
    assert manifest.leakage.strongest.ssim > 0.8


def test_a_person_is_told_the_worst_of_it_and_what_it_is_worth(released: Path) -> None:
    told = in_words(read_release(released).manifest.leakage)

    assert "known plaintext" in told
    assert told.endswith("a lower bound on an attacker")
    assert "not measured" in in_words(None)


def test_what_cannot_be_measured_is_released_without_a_card() -> None:
    training, test = load("digits", "train"), load("digits", "test")
    shape = preprocessing_of(training.images)

    assert card_of((training, part_of(test, 11)), shape, 2, None) is None
    assert card_of((part_of(training, 11), test), shape, 2, None) is None


def test_the_command_measures_a_release_and_signs_it_again(
    released: Path, tmp_path: Path
) -> None:
    folder = released.parents[1]
    before = read_release(released)
    arguments = ["--folder", str(folder), "--release", str(released)]
    ended = CliRunner().invoke(app, ["measure", *arguments, "--data", "digits"])
    after = read_release(released)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))

    assert ended.exit_code == 0, ended.output
    event = json.loads(ended.stdout.splitlines()[-1])
    assert "a lower bound on an attacker" in event["leakage"]
    assert after.manifest == before.manifest
    assert len(read_file(released / "manifest.sig")) == 64
    assert before.manifest.leakage is not None
    signed = add_card(released, after, before.manifest.leakage, key)
    public = key.public_key().public_bytes_raw()
    content = signed.manifest.to_bytes()
    verify(public, MANIFEST, content, read_file(released / "manifest.sig"))
    assert signature_of(released, signed, key) == read_file(released / "manifest.sig")


def test_pictures_of_other_channels_measure_nothing(
    released: Path, tmp_path: Path
) -> None:
    colour = np.zeros((30, 8, 8, 3), np.uint8)
    path = tmp_path / "colour.npz"
    np.savez(path, images=colour, labels=np.arange(30) % 10)

    with pytest.raises(DataError, match="3 channels"):
        measured_on(read_release(released).manifest, str(path))

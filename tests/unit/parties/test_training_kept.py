"""A training that is killed at any write goes on; nothing that was kept is lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.datasets import Dataset, load
from core.datasets.source import dataset
from core.errors import ConfigurationError, CorruptFileError, DataError
from core.manifest import Manifest
from core.wire import load_tensors, write_atomically
from parties.model_provider import place
from parties.model_provider.alone import plan_of, train_alone
from parties.model_provider.errors import TrainingChangedError, TrainingRunsError
from parties.model_provider.reporting import JsonReporter
from parties.model_provider.training import Plan, hold_out, train

EPOCHS = 2
SMALL: dict[str, Any] = {
    "name": "digits",
    "hidden": 6,
    "depth": 1,
    "kernel_size": 3,
    "patch_size": 2,
    "epochs": EPOCHS,
    "batch": 20,
    "pad": 1,
    "flip": False,
    "ema": 0.8,
}
# As many as the tests have: another number may round otherwise.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    whole, unseen = load("digits", "train"), load("digits", "test")
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(
        path,
        train_images=whole.images[:100],
        train_labels=whole.labels[:100],
        test_images=unseen.images[:30],
        test_labels=unseen.labels[:30],
        classes=np.array(whole.classes),
    )
    return str(path)


def trained(digits: str, folder: Path, **changes: Any) -> Manifest:
    plan = plan_of(**{**SMALL, "seed": 5, **changes})
    return train_alone(plan, digits, folder, JsonReporter())[0].manifest


def digests(manifest: Manifest) -> tuple[str, str]:
    return manifest.embedding_digest, manifest.backbone_digest


@contextmanager
def killed_at(write: int, *, after: bool) -> Iterator[None]:
    """Die at so many writes into the place, before or after it is on disk."""
    writes = 0

    def dying(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal writes
        writes += 1
        if writes == write and not after:
            raise Killed
        write_atomically(path, data, mode)
        if writes == write:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "write_atomically", dying)
        yield


# The plan, then a file of tensors and the word on it before the first epoch and after
# each.
WRITES = 1 + 2 * (1 + EPOCHS)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_killed_at_any_write_it_ends_with_the_same_model(
    digits: str, write: int, tmp_path: Path, *, after: bool
) -> None:
    straight = trained(digits, tmp_path / "lives")
    with killed_at(write, after=after), pytest.raises(Killed):
        trained(digits, tmp_path / "killed")
    resumed = trained(digits, tmp_path / "killed")

    assert digests(straight) == digests(resumed)
    assert straight.metrics == resumed.metrics
    points = [
        [
            (point["epoch"], point["loss"], point["accuracy"])
            for point in json.loads(
                (tmp_path / name / "releases/digits/curve.json").read_text()
            )
        ]
        for name in ("lives", "killed")
    ]
    assert points[0] == points[1]
    assert EPOCHS == len(points[0])


def test_there_are_so_many_writes(digits: str, tmp_path: Path) -> None:
    with killed_at(WRITES + 1, after=False):
        trained(digits, tmp_path)


def test_weights_that_the_system_drew_are_kept(digits: str, tmp_path: Path) -> None:
    """Nobody could draw them again."""
    with killed_at(4, after=False), pytest.raises(Killed):
        trained(digits, tmp_path, seed=None)
    (kept,) = (tmp_path / "training" / "digits").glob("*.safetensors")
    first = load_tensors(kept)["model.embedding.weight"]
    with killed_at(3, after=False), pytest.raises(Killed):
        trained(digits, tmp_path, seed=None)
    (later,) = (tmp_path / "training" / "digits").glob("*.safetensors")
    then = load_tensors(later)["model.embedding.weight"]

    assert "epoch-0000" in kept.name
    assert "epoch-0001" in later.name
    # An epoch changes them a little; others would be as far away as any.
    assert np.corrcoef(first.ravel(), then.ravel())[0, 1] > 0.9


def test_what_is_kept_is_for_the_provider_alone(digits: str, tmp_path: Path) -> None:
    with killed_at(WRITES, after=True), pytest.raises(Killed):
        trained(digits, tmp_path)
    folder = tmp_path / "training" / "digits"
    kept = folder / f"epoch-{EPOCHS:04}.safetensors"

    assert kept.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0
    trained(digits, tmp_path)
    assert ["lock"] == [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("change", [{"max_lr": 0.5}, {"seed": 6}, {"ema": 0.0}])
def test_it_does_not_go_on_with_other_options(
    digits: str, change: dict[str, Any], tmp_path: Path
) -> None:
    with killed_at(WRITES, after=True), pytest.raises(Killed):
        trained(digits, tmp_path)

    with pytest.raises(TrainingChangedError):
        trained(digits, tmp_path, **change)
    plan = plan_of(**{**SMALL, "seed": 5, **change})
    train_alone(plan, digits, tmp_path, JsonReporter(), restart=True)


def test_it_does_not_go_on_with_other_images(digits: str, tmp_path: Path) -> None:
    with killed_at(WRITES, after=True), pytest.raises(Killed):
        trained(digits, tmp_path)

    with pytest.raises(TrainingChangedError, match="data"):
        trained("digits", tmp_path)


def test_what_was_changed_on_disk_is_refused(digits: str, tmp_path: Path) -> None:
    with killed_at(WRITES, after=True), pytest.raises(Killed):
        trained(digits, tmp_path)
    kept = tmp_path / "training" / "digits" / f"epoch-{EPOCHS:04}.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)

    with pytest.raises(CorruptFileError, match="was changed"):
        trained(digits, tmp_path)


def test_two_processes_do_not_train_one_model(digits: str, tmp_path: Path) -> None:
    with place.place_of(tmp_path, "digits"), pytest.raises(TrainingRunsError):
        trained(digits, tmp_path)


def command(digits: str, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "parties.model_provider", "train"),
        *("--folder", str(folder), "--name", "digits", "--data", digits),
        *("--hidden", "6", "--depth", "1", "--kernel-size", "3", "--patch-size", "2"),
        *("--batch", "20", "--pad", "1", "--no-flip", "--ema", "0.8", "--seed", "5"),
        *("--progress", "json", *more),
    ]


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(digits: str, tmp_path: Path) -> None:
    """SIGKILL, twice: after two epochs, and in the middle of one."""
    words = command(digits, tmp_path, "--epochs", "6")
    for ended in ({"event": "epoch", "epoch": 2}, {"event": "progress"}):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=ONE_THREAD
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line).items() >= ended.items():
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    done = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=ONE_THREAD
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    straight = trained(digits, tmp_path / "lives", epochs=6)

    assert 6 > len([each for each in told if each["event"] == "epoch"])
    content = (tmp_path / "releases" / "digits" / "manifest.json").read_bytes()
    assert digests(straight) == digests(Manifest.from_bytes(content))


def test_a_full_disk_is_named_and_what_was_kept_goes_on(
    digits: str, tmp_path: Path
) -> None:
    """The first file fits; the second has the optimiser's moments, too."""
    bytes_ = 14_000
    full = subprocess.run(
        command(digits, tmp_path, "--epochs", str(EPOCHS)),
        capture_output=True,
        text=True,
        check=False,
        env=ONE_THREAD,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_)),
    )
    (kept,) = (tmp_path / "training" / "digits").glob("*.safetensors")

    assert kept.stat().st_size < bytes_
    assert full.returncode == 4, full.stderr
    assert "Storage" in full.stderr + full.stdout
    assert "Traceback" not in full.stderr
    assert kept.name == "epoch-0000.safetensors"
    assert digests(trained(digits, tmp_path)) == digests(
        trained(digits, tmp_path / "lives")
    )


# --- images that cannot be learned ---


def dealt(labels: list[int], classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), np.uint8)
    return dataset("few", images, np.array(labels), classes)


def learned(training: Dataset, **changes: Any) -> None:
    plan = plan_of(**{**SMALL, **changes})
    train((training, dealt([0, 1])), plan, lambda _: None, lambda _: None)


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(DataError, match="'b'"):
        learned(dealt([0, 0, 0]))


def test_a_class_without_images_may_be_allowed() -> None:
    """As for one site alone, which has not what the others have."""
    learned(dealt([0, 0, 0]), allow_empty=True)


def test_one_image_is_too_few() -> None:
    with pytest.raises(DataError, match="at least 2 images"):
        learned(dealt([0], ("a",)))


def test_a_label_of_no_class_is_refused() -> None:
    with pytest.raises(DataError, match="label"):
        dealt([0, 1, 2])


# --- what is held out ---


def test_what_decides_is_never_learned_from() -> None:
    whole = load("digits", "train")
    learn, decide = hold_out(whole, 0.1, seed=4)
    assert decide is not None
    again = hold_out(whole, 0.1, seed=4)
    other = hold_out(whole, 0.1, seed=5)

    assert len(decide) == round(0.1 * len(whole))
    assert len(learn) + len(decide) == len(whole)
    parts = [{image.tobytes() for image in part.images} for part in (learn, decide)]
    everything = {image.tobytes() for image in whole.images}
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert again[0].digest == learn.digest != other[0].digest


def test_a_training_that_stops_early_says_what_it_decided_by(
    digits: str, tmp_path: Path
) -> None:
    manifest = trained(digits, tmp_path, patience=1, validation=0.2, epochs=30)
    curve = json.loads((tmp_path / "releases/digits/curve.json").read_text())
    kept = [point for point in curve if point["kept"]][-1]

    assert len(curve) < 30
    assert kept is not curve[-1]
    assert manifest.metrics["validation_accuracy"] == kept["validation"]
    assert manifest.metrics["test_accuracy"] == kept["accuracy"]
    assert "held_out_digest" in manifest.lineage["data"]


@pytest.mark.parametrize(
    "wrong", [{"patience": 1}, {"validation": 1.0}, {"validation": -0.1}]
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="validation"):
        plan_of(**{**SMALL, **wrong})


def test_options_are_the_plans_or_its_recipes() -> None:
    plan = plan_of(**SMALL, seed=3)

    assert plan == Plan(
        "digits", 6, 1, 3, 2, recipe=plan.recipe, seed=3, validation=0.0
    )
    assert (plan.recipe.ema, plan.recipe.batch, plan.recipe.seed) == (0.8, 20, 0)

"""A release is whole, unchanged and signed, or it is refused."""

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.architecture import Architecture
from core.convmixer import initialise
from core.errors import CorruptFileError, NotFound, SignatureError
from core.preprocessing import Preprocessing, normalise
from core.statements import MANIFEST, verify
from core.training import predict_logits
from core.wire import dump_tensors, load_tensors
from parties.model_provider.errors import ReleaseChangedError
from parties.model_provider.release import (
    Epoch,
    read_release,
    signature_of,
    write_release,
)
from parties.model_provider.training import Trained
from parties.model_provider.weights import model_of, plain_logits, release_of

FILES = ("embedding.safetensors", "backbone.safetensors")


@pytest.fixture
def trained() -> Trained:
    sizes = Architecture(
        hidden=6, depth=1, kernel_size=3, patch_size=2, height=8, width=8, classes=2
    )
    return Trained(
        name="cells",
        model=initialise(sizes, 1).eval(),
        preprocessing=Preprocessing(8, 8, 3, mean=(0.5,) * 3, std=(0.25,) * 3),
        classes=("red", "white"),
        curve=(Epoch(epoch=1, loss=0.7, accuracy=0.5, seconds=1.0),),
        lineage={"seed": 1},
    )


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path: Path, trained: Trained, key: Ed25519PrivateKey) -> Path:
    path = tmp_path / "releases" / "cells"
    write_release(path, release_of(trained), trained.curve, key)
    return path


def test_a_release_read_again_answers_as_the_trained_model(
    folder: Path, trained: Trained
) -> None:
    images = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), np.uint8)
    expected = predict_logits(trained.model, normalise(images, trained.preprocessing))

    assert np.array_equal(expected, plain_logits(read_release(folder), images))


def test_the_two_halves_share_nothing(folder: Path) -> None:
    """The embedding's weight goes to one party, everything else to another."""
    embedding, backbone = (load_tensors(folder / name) for name in FILES)

    assert set(embedding) == {"weight"}
    assert "embedding.bias" in backbone
    assert not any(np.array_equal(embedding["weight"], t) for t in backbone.values())


def test_the_embedding_is_for_its_owner_only(folder: Path) -> None:
    assert (folder / "embedding.safetensors").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(ReleaseChangedError, match=name):
        read_release(folder)


def test_a_manifest_that_is_no_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "cells"}')

    with pytest.raises(CorruptFileError):
        read_release(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(NotFound, match=name):
        read_release(folder)


def test_a_signature_verifies_and_another_providers_does_not(
    folder: Path, key: Ed25519PrivateKey
) -> None:
    release = read_release(folder)
    public = key.public_key().public_bytes_raw()

    verify(
        public,
        MANIFEST,
        release.manifest.to_bytes(),
        signature_of(folder, release, key),
    )
    with pytest.raises(SignatureError):
        signature_of(folder, release, Ed25519PrivateKey.generate())


def test_a_release_without_signature_is_signed(
    folder: Path, key: Ed25519PrivateKey
) -> None:
    """Ed25519 is deterministic: the same key gives the same signature."""
    first = (folder / "manifest.sig").read_bytes()
    (folder / "manifest.sig").unlink()

    assert first == signature_of(folder, read_release(folder), key)
    assert first == (folder / "manifest.sig").read_bytes()


def test_writing_again_replaces_the_release(
    folder: Path, trained: Trained, key: Ed25519PrivateKey
) -> None:
    (folder / "left-over").write_text("of the old release")

    write_release(folder, release_of(trained), trained.curve, key)

    assert not (folder / "left-over").exists()
    assert [folder] == list(folder.parent.iterdir())


def test_an_embedding_with_other_tensors_is_refused(trained: Trained) -> None:
    release = release_of(trained)
    object.__setattr__(
        release, "embedding", dump_tensors({"other": np.zeros(1, np.float32)})
    )

    with pytest.raises(CorruptFileError, match="expected one tensor"):
        model_of(release)


def test_a_release_does_not_print_its_weights(trained: Trained) -> None:
    assert "safetensors" not in repr(release_of(trained))
    assert ", embedding=" not in repr(release_of(trained))

"""What others have trained answers after an import as it did before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.testing import assert_allclose
from safetensors.torch import save_file

from core.errors import ConfigurationError, NonFiniteError
from core.keys import BlockKey, derive_key
from core.pixels import PixelKey
from core.preprocessing import Preprocessing
from core.transform import flatten_embedding, transform_embedding
from core.wire import load_tensors
from parties.inference_server.engine import Question
from parties.inference_server.engines.choice import engine_named
from parties.model_provider.checkpoint import Checkpoint, read_checkpoint
from parties.model_provider.errors import CheckpointError
from parties.model_provider.importing import Wanted, import_release
from parties.model_provider.published import architecture_named, preprocessing_named
from parties.model_provider.release import Release, read_release, write_release
from parties.model_provider.weights import plain_logits
from tests.unit.parties.reference import (
    Names,
    Shape,
    State,
    forward,
    locuslab,
    random_weights,
    timm,
)

IMAGENET = preprocessing_named("imagenet")
CIFAR10 = preprocessing_named("cifar10")
SMALL = Shape(hidden=8, depth=2, kernel=5, patch=7, classes=3)


def pixels_for(p: Preprocessing, count: int) -> np.ndarray:
    shape = (count, p.height, p.width, p.channels)
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def expected(state: State, names: Names, shape: Shape, p: Preprocessing) -> np.ndarray:
    """Of two images, normalised in float64 by the numbers of the manifest."""
    scaled = pixels_for(p, 2) / 255.0
    normalised = (scaled - np.array(p.mean)) / np.array(p.std)
    images = torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        return forward(state, names, shape, images).numpy()


def imported(state: State, arch: str, p: Preprocessing = IMAGENET) -> Release:
    return import_release(Checkpoint(state, "ab" * 32), Wanted("model", arch, p))


def keyed_logits(release: Release, key: BlockKey) -> np.ndarray:
    """What the server answers to an owner: issued embedding, encrypted pixels."""
    manifest = release.manifest
    weight = load_tensors(release.embedding)["weight"]
    blocks = PixelKey.of(key, manifest.preprocessing).encrypt(
        pixels_for(manifest.preprocessing, 2)
    )
    backbone = engine_named("onnxruntime", threads=1).load(
        manifest.architecture, load_tensors(release.backbone)
    )
    (logits,) = backbone.answer([Question(blocks, transform_embedding(weight, key))])
    return logits


def a_key(release: Release) -> BlockKey:
    a = release.manifest.architecture
    return derive_key(
        b"k" * 32, key_id="k", version=1, patch_size=a.patch_size, channels=a.channels
    )


def assert_agreement(got: np.ndarray, wanted: np.ndarray) -> None:
    """To a ten-thousandth of what tells the two images apart."""
    apart = np.abs(wanted[0] - wanted[1]).max()

    assert apart > 0.01
    assert_allclose(got, wanted, rtol=0, atol=1e-3 * apart)
    assert np.array_equal(got.argmax(axis=1), wanted.argmax(axis=1))


HEAVY = [pytest.mark.slow, pytest.mark.heavy]
FULL_SIZE = [
    pytest.param(
        *("convmixer_768_32", Shape(768, 32, 7, 7, 1000, relu=True), "timm"),
        marks=HEAVY,
        id="convmixer_768_32",
    ),
    pytest.param(
        *("convmixer_1024_20_ks9_p14", Shape(1024, 20, 9, 14, 1000), "locuslab"),
        id="convmixer_1024_20_ks9_p14",
    ),
    pytest.param(
        *("convmixer_1536_20", Shape(1536, 20, 9, 7, 1000), "timm"),
        marks=HEAVY,
        id="convmixer_1536_20",
    ),
]


@pytest.mark.parametrize(("arch", "shape", "naming"), FULL_SIZE)
def test_a_published_architecture_answers_as_before_also_encrypted(
    tmp_path: Path, arch: str, shape: Shape, naming: str
) -> None:
    """At 224x224, through a file, with random weights and statistics."""
    names = timm() if naming == "timm" else locuslab(shape.depth)
    state = random_weights(shape, names, seed=1)
    path = tmp_path / ("a.safetensors" if naming == "timm" else "a.pth.tar")
    save_file(state, path) if naming == "timm" else torch.save(state, path)
    release = import_release(read_checkpoint(path), Wanted("m", arch, IMAGENET))
    path.unlink()  # tests' folders stay for a while, and this is large
    wanted = expected(state, names, shape, IMAGENET)

    assert release.manifest.lineage["imported"]["naming"] == naming
    assert_agreement(plain_logits(release, pixels_for(IMAGENET, 2)), wanted)
    assert_agreement(keyed_logits(release, a_key(release)), wanted)


@pytest.mark.parametrize(("kernel", "relu"), [(5, False), (5, True), (4, False)])
@pytest.mark.parametrize("naming", ["timm", "locuslab"])
def test_a_small_one_for_cifar_answers_as_before_whatever_its_names(
    naming: str, kernel: int, relu: bool
) -> None:
    """The authors' own for CIFAR-10; an even kernel is padded as theirs would be."""
    shape = Shape(256, 8, kernel, patch=2, classes=10, relu=relu)
    names = timm() if naming == "timm" else locuslab(8)
    state = random_weights(shape, names, seed=2)
    activation = "relu" if relu else "gelu"
    release = imported(state, f"convmixer_256_8_ks{kernel}_p2_{activation}", CIFAR10)
    wanted = expected(state, names, shape, CIFAR10)

    assert_agreement(plain_logits(release, pixels_for(CIFAR10, 2)), wanted)
    assert_agreement(keyed_logits(release, a_key(release)), wanted)


def test_a_release_of_an_import_is_an_ordinary_one(tmp_path: Path) -> None:
    """It is written, signed and read again as what a provider trained itself."""
    release = imported(random_weights(SMALL, timm(), 3), "convmixer_8_2_ks5")
    write_release(tmp_path / "r", release, (), Ed25519PrivateKey.generate())
    read = read_release(tmp_path / "r").manifest

    assert read == release.manifest
    assert read.public_embedding
    assert read.classes == ("0", "1", "2")
    assert read.lineage["imported"]["sha256"] == "ab" * 32
    assert read.preprocessing.resize == 233


def test_from_a_public_embedding_and_an_issued_one_the_key_follows() -> None:
    """Why issuing one is refused: one least-squares solve, and pictures are plain."""
    shape = Shape(hidden=256, depth=1, kernel=3, patch=7, classes=2)
    release = imported(random_weights(shape, timm(), 4), "convmixer_256_1_ks3")
    key = a_key(release)
    public = load_tensors(release.embedding)["weight"]
    issued = transform_embedding(public, key)
    # W A^T = W X has the one solution X = A^T, as W has at least D rows.
    rows = flatten_embedding(public).astype(np.float64)
    stolen = np.linalg.lstsq(rows, issued.astype(np.float64))[0].T
    pixels = pixels_for(IMAGENET, 1)
    sent = PixelKey.of(key, IMAGENET).encrypt(pixels)
    seen = sent.astype(np.float64) @ stolen  # A^T (A x), a block a row
    plain = PixelKey.of(_no_key(key), IMAGENET).encrypt(pixels)

    assert np.abs(stolen - key.matrix).max() < 1e-4
    assert np.abs(seen - plain).max() < 0.5 / 255 / max(IMAGENET.std)


def _no_key(key: BlockKey) -> BlockKey:
    identity = derive_key(bytes(32), key_id="none", version=1, patch_size=7, channels=3)
    object.__setattr__(identity, "matrix", np.eye(key.dimension))
    return identity


def test_half_precision_is_widened() -> None:
    state = random_weights(SMALL, timm(), 5)
    halved = {
        name: each.bfloat16() if each.is_floating_point() else each
        for name, each in state.items()
    }
    release = imported(halved, "convmixer_8_2_ks5")
    exact = {n: t.float() if t.is_floating_point() else t for n, t in halved.items()}

    got = plain_logits(release, pixels_for(IMAGENET, 2))
    assert_allclose(got, expected(exact, timm(), SMALL, IMAGENET), atol=1e-4)


def test_files_from_before_batches_were_counted_are_read() -> None:
    state = random_weights(SMALL, timm(), 6)
    older = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}

    assert imported(older, "convmixer_8_2_ks5").manifest.name == "model"


@pytest.mark.parametrize("names", [timm(), locuslab(2)], ids=["timm", "locuslab"])
@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("convmixer_16_2_ks5", "expected 16x3x7x7, got 8x3x7x7"),
        ("convmixer_8_2_ks9", "expected 8x1x9x9, got 8x1x5x5"),
        ("convmixer_8_2_ks5_p14", "expected 8x3x14x14, got 8x3x7x7"),
        ("convmixer_8_3_ks5", "missing"),
        ("convmixer_8_1_ks5", "unexpected"),
    ],
)
def test_another_architecture_is_refused_and_told_what_the_file_holds(
    names: Names, arch: str, told: str
) -> None:
    state = random_weights(SMALL, names, 7)

    with pytest.raises(CheckpointError, match=told) as refused:
        imported(state, arch)
    assert "looks like convmixer_8_2_ks5_p7" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("head.weight", torch.zeros(4, 8), r"head\.weight: expected 3x8, got 4x8"),
        ("stem.2.running_var", torch.full((8,), -1.0), "variances from 0"),
        ("blocks.1.1.bias", torch.zeros(8, dtype=torch.int8), "got int8"),
        ("stem.0.weight", torch.zeros(8), "no patch embedding"),
        ("head.bias", torch.zeros(()), "no classifier"),
        ("surprise", torch.zeros(1), "unexpected surprise"),
    ],
)
def test_weights_that_cannot_be_are_refused_by_name(
    name: str, value: torch.Tensor, told: str
) -> None:
    state = {**random_weights(SMALL, timm(), 8), name: value}

    with pytest.raises(CheckpointError, match=told):
        imported(state, "convmixer_8_2_ks5")


def test_a_weight_that_is_no_number_is_named() -> None:
    state = random_weights(SMALL, timm(), 9)
    state["blocks.0.3.bias"][2] = torch.nan

    with pytest.raises(NonFiniteError, match=r"blocks\.0\.3\.bias"):
        imported(state, "convmixer_8_2_ks5")


def test_class_names_are_as_many_as_outputs() -> None:
    state = random_weights(SMALL, timm(), 10)
    checkpoint = Checkpoint(state, "ab" * 32)
    named = Wanted("m", "convmixer_8_2_ks5", IMAGENET, ("a", "b", "c"))

    assert import_release(checkpoint, named).manifest.classes == ("a", "b", "c")
    with pytest.raises(ConfigurationError, match="2 names for 3 outputs"):
        import_release(
            checkpoint, Wanted("m", "convmixer_8_2_ks5", IMAGENET, ("a", "b"))
        )


@pytest.mark.parametrize(
    ("name", "kernel", "patch", "activation"),
    [
        ("convmixer_768_32", 7, 7, "relu"),
        ("convmixer_768_32_ks7_p7_relu", 7, 7, "relu"),
        ("convmixer_768_32_gelu", 7, 7, "gelu"),
        ("convmixer_1536_20", 9, 7, "gelu"),
        ("convmixer_1536_20_ks9_p7", 9, 7, "gelu"),
        ("convmixer_1024_20_ks9_p14", 9, 14, "gelu"),
        ("convmixer_512_16_ks8_p16_relu", 8, 16, "relu"),
    ],
)
def test_a_name_stands_for_what_was_published_under_it(
    name: str, kernel: int, patch: int, activation: str
) -> None:
    a = architecture_named(name, IMAGENET, 1000)
    hidden, depth = name.split("_")[1:3]

    assert (a.hidden, a.depth) == (int(hidden), int(depth))
    assert (a.kernel_size, a.patch_size, a.activation) == (kernel, patch, activation)


@pytest.mark.parametrize("name", ["", "resnet50", "convmixer_8", "convmixer_8_2_k5"])
def test_another_name_is_refused_with_the_form_it_should_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match="HIDDEN_DEPTH"):
        architecture_named(name, IMAGENET, 10)
    with pytest.raises(ConfigurationError, match="imagenet, cifar10"):
        preprocessing_named("mnist")


def test_another_size_is_scaled_in_proportion() -> None:
    larger = preprocessing_named("imagenet", 280)
    grey = preprocessing_named("cifar10", 28, (0.5,), (0.25,))

    assert (larger.height, larger.width, larger.resize) == (280, 280, 291)
    assert (grey.channels, grey.height, grey.resize) == (1, 28, None)

"""The engine: encrypted blocks and issued embeddings give the plain model's logits."""

from typing import Any

import numpy as np
import pytest
import torch

from core.architecture import Architecture
from core.blocks import encrypt
from core.convmixer import take_apart
from core.errors import CorruptFileError, KeyMismatchError, ShapeError
from core.keys import BlockKey, derive_key
from core.transform import transform_embedding
from parties.inference_server.engine import Backbone, Engine, Question
from parties.inference_server.engines.choice import engine_named
from parties.inference_server.engines.tokens import slices
from parties.inference_server.engines.torch_engine import TorchEngine, TorchNetwork
from tests.unit.parties.stage import TINY, Release, images

ATOL = 1e-5


@pytest.fixture(params=["onnxruntime", "openvino", "torch"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of them that computes in float32, by its name in federation.yaml."""
    return engine_named(request.param, threads=1)


def loaded(engine: Engine, release: Release) -> Backbone:
    return engine.load(release.architecture, take_apart(release.model)[1])


def key(number: int, architecture: Architecture = TINY) -> BlockKey:
    return derive_key(
        bytes([number]) * 32,
        key_id="k",
        version=1,
        patch_size=architecture.patch_size,
        channels=architecture.channels,
    )


def asked(pictures: np.ndarray, release: Release, number: int) -> Question:
    owners = key(number, release.architecture)
    weight = transform_embedding(release.weight, owners)
    return Question(encrypt(pictures, owners), weight)


def plain(pictures: np.ndarray, release: Release) -> np.ndarray:
    """The oracle: the whole model on plain images, in torch alone."""
    with torch.inference_mode():
        logits: np.ndarray = release.model(torch.from_numpy(pictures)).numpy()
    return logits


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        Architecture(
            hidden=16, depth=2, kernel_size=4, patch_size=2, height=6, width=4
        ),
        Architecture(hidden=8, depth=1, patch_size=1, channels=1, height=4, width=4),
        Architecture(
            hidden=24, depth=3, kernel_size=6, patch_size=7, height=21, width=28
        ),
        Architecture(hidden=5, depth=2, kernel_size=1, classes=3, height=8, width=8),
    ],
)
def test_keyed_logits_are_the_plain_models(
    engine: Engine, architecture: Architecture
) -> None:
    release = Release(architecture)
    pictures = images(5, architecture)
    (logits,) = loaded(engine, release).answer([asked(pictures, release, 1)])

    np.testing.assert_allclose(plain(pictures, release), logits, atol=ATOL)


def test_a_wrong_key_gives_other_logits(engine: Engine) -> None:
    release = Release()
    pictures = images(5)
    mine, others = asked(pictures, release, 1), asked(pictures, release, 2)
    (logits,) = loaded(engine, release).answer([Question(mine.blocks, others.weight)])

    assert np.abs(plain(pictures, release) - logits).max() > 0.01


def test_a_batch_may_mix_owners(engine: Engine) -> None:
    release = Release()
    pictures = images(6)
    parts = [pictures[:1], pictures[1:4], pictures[4:]]
    questions = [asked(part, release, i) for i, part in enumerate(parts, start=1)]
    answers = loaded(engine, release).answer(questions)

    assert [1, 3, 2] == [len(answer) for answer in answers]
    np.testing.assert_allclose(
        plain(pictures, release), np.concatenate(answers), atol=ATOL
    )


def test_many_images_are_computed_in_slices(engine: Engine) -> None:
    release = Release()
    pictures = images(600)
    (logits,) = loaded(engine, release).answer([asked(pictures, release, 1)])

    np.testing.assert_allclose(plain(pictures, release), logits, atol=ATOL)


def test_the_backbone_holds_no_embedding() -> None:
    """Neither the plain weights nor a place for them; torch has all by name."""
    engine = TorchEngine(threads=1)
    network = engine.load(TINY, take_apart(Release().model)[1]).network
    assert isinstance(network, TorchNetwork)
    names = [name for name, _ in network.model.named_parameters()]

    assert names
    assert not [name for name in names if name.startswith("embedding")]


def _without(name: str) -> dict[str, Any]:
    tensors = take_apart(Release().model)[1]
    return {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        _without("embedding.bias"),
        _without("head.bias"),
        {**_without(""), "head.bias": np.zeros(11, np.float32)},
        {**_without(""), "surprise": np.zeros(1, np.float32)},
    ],
)
def test_tensors_of_another_architecture_are_corrupt(
    engine: Engine, tensors: dict[str, Any]
) -> None:
    with pytest.raises(CorruptFileError):
        engine.load(TINY, tensors)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_negative_variance_is_corrupt(name: str) -> None:
    tensors = _without("")
    tensors["backbone.1.running_var"] = np.full(8, -1.0, np.float32)

    with pytest.raises(CorruptFileError, match=r"backbone\.1\.running_var"):
        engine_named(name, threads=1).load(TINY, tensors)


def test_what_folding_makes_too_large_is_corrupt() -> None:
    """Each factor is a float32; their product is not."""
    tensors = _without("")
    tensors["backbone.2.3.weight"] = np.full(8, 3e38, np.float32)
    tensors["head.weight"] = np.full((10, 8), 3e38, np.float32)

    with pytest.raises(CorruptFileError, match=r"head\.weight"):
        engine_named("onnxruntime", threads=1).load(TINY, tensors)


def test_a_question_of_several_images_may_be_cut_between_two_slices() -> None:
    """Nothing is lost or moved where one slice ends and the next begins."""
    sizes = [3, 1, 9, 2]
    weights = [np.full((1, 1), i, np.float32) for i in range(len(sizes))]
    blocks = np.arange(sum(sizes), dtype=np.float32).reshape(-1, 1, 1, 1)
    parts = np.split(blocks, np.cumsum(sizes)[:-1])
    questions = [Question(p, w) for p, w in zip(parts, weights, strict=True)]
    cut = list(slices(questions, 4))

    counts = [[len(each.blocks) for each in one] for one in cut]
    assert [[3, 1], [4], [4], [1, 2]] == counts
    whole = np.concatenate([each.blocks for one in cut for each in one])
    np.testing.assert_array_equal(blocks, whole)
    whose = [each.weight[0, 0] for one in cut for each in one]
    assert [0, 1, 2, 2, 2, 3] == whose


def test_numbers_too_large_for_the_embedding_give_no_warning(engine: Engine) -> None:
    """Warnings are errors here; the caller's own numbers spoil its own answer only."""
    release = Release()
    mine, others = (asked(images(1), release, number) for number in (1, 2))
    huge = Question(np.full_like(mine.blocks, 3e38), mine.weight * 100)
    spoilt, fine = loaded(engine, release).answer([huge, others])

    assert not np.isfinite(spoilt).any()
    np.testing.assert_allclose(plain(images(1), release), fine, atol=ATOL)


def test_blocks_of_another_size_are_no_answer(engine: Engine) -> None:
    release = Release()
    mine = asked(images(1), release, 1)
    with pytest.raises(KeyMismatchError):
        loaded(engine, release).answer([Question(mine.blocks[..., 1:], mine.weight)])
    with pytest.raises(ShapeError):
        loaded(engine, release).answer([Question(mine.blocks, mine.weight[1:])])

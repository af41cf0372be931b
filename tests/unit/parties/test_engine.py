"""The engine: encrypted blocks and issued embeddings give the plain model's logits."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from core.architecture import Architecture
from core.blocks import encrypt
from core.convmixer import take_apart
from core.errors import CorruptFileError
from core.keys import BlockKey, derive_key
from core.transform import transform_embedding
from parties.inference_server.engine import Question
from parties.inference_server.torch_engine import TorchBackbone, TorchEngine
from tests.unit.parties.stage import TINY, Release, images

ATOL = 1e-5


def engine() -> TorchEngine:
    return TorchEngine(threads=1)


def loaded(release: Release) -> TorchBackbone:
    return engine().load(release.architecture, take_apart(release.model)[1])


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
    ],
)
def test_keyed_logits_are_the_plain_models(architecture: Architecture) -> None:
    release = Release(architecture)
    pictures = images(5, architecture)
    (logits,) = loaded(release).answer([asked(pictures, release, 1)])

    np.testing.assert_allclose(plain(pictures, release), logits, atol=ATOL)


def test_a_wrong_key_gives_other_logits() -> None:
    release = Release()
    pictures = images(5)
    mine, others = asked(pictures, release, 1), asked(pictures, release, 2)
    (logits,) = loaded(release).answer([Question(mine.blocks, others.weight)])

    assert np.abs(plain(pictures, release) - logits).max() > 0.01


def test_a_batch_may_mix_owners() -> None:
    release = Release()
    pictures = images(6)
    parts = [pictures[:1], pictures[1:4], pictures[4:]]
    questions = [asked(part, release, i) for i, part in enumerate(parts, start=1)]
    answers = loaded(release).answer(questions)

    assert [1, 3, 2] == [len(answer) for answer in answers]
    np.testing.assert_allclose(
        plain(pictures, release), np.concatenate(answers), atol=ATOL
    )


def test_many_images_are_computed_in_slices() -> None:
    release = Release()
    pictures = images(600)
    (logits,) = loaded(release).answer([asked(pictures, release, 1)])

    np.testing.assert_allclose(plain(pictures, release), logits, atol=ATOL)


def test_the_backbone_holds_no_embedding() -> None:
    """Neither the plain weights nor a place for them."""
    names = [name for name, _ in loaded(Release())._model.named_parameters()]

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
def test_tensors_of_another_architecture_are_corrupt(tensors: dict[str, Any]) -> None:
    with pytest.raises(CorruptFileError):
        engine().load(TINY, tensors)


def test_only_the_torch_engine_needs_torch() -> None:
    """So that another engine can serve without the 900 MB."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import parties.inference_server.service, parties.key_holder.__main__\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

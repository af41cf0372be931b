"""Every engine on the 10,000 test images of CIFAR-10, against torch eager.

Only where this machine has fetched them before; the model comes with keymixer.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import openvino
import pytest

from core.architecture import Architecture
from core.blocks import encrypt
from core.convmixer import put_together
from core.datasets.cifar10 import Sources, load_cifar10, sources_from_environment
from core.errors import ConfigurationError
from core.keys import derive_key
from core.manifest import Manifest
from core.preprocessing import normalise
from core.training import predict_logits
from core.transform import transform_embedding
from core.wire import load_tensors
from parties.inference_server.engine import Logits, Question
from parties.inference_server.engines.agreement import same_top
from parties.inference_server.engines.choice import engine_named

OWNERS = 100
SHIPPED = Path(__file__).parents[2] / "deploy/models/cifar10"


@dataclass(frozen=True)
class Case:
    """Encrypted test images of many owners, and what the plain model says of them."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    questions: list[Question]
    eager: Logits


@cache
def case() -> Case:
    images_at = sources_from_environment(os.environ).cache
    if not (images_at / "test_batch.bin").exists():
        pytest.skip("CIFAR-10 is not in the cache")
    folder = SHIPPED
    manifest = Manifest.from_bytes((folder / "manifest.json").read_bytes())
    sources = Sources(cache=images_at, archive_url=None)
    pixels = load_cifar10("test", lambda *_: None, sources).images
    images = normalise(pixels, manifest.preprocessing)
    weight = load_tensors(folder / "embedding.safetensors")["weight"]
    tensors = load_tensors(folder / "backbone.safetensors")
    a = manifest.architecture
    questions = []
    for owner, part in enumerate(np.split(images, OWNERS)):
        key = derive_key(
            owner.to_bytes(32),
            key_id="k",
            version=1,
            patch_size=a.patch_size,
            channels=a.channels,
        )
        owners = transform_embedding(weight, key)
        questions.append(Question(encrypt(part, key), owners))
    eager = predict_logits(put_together(a, tensors, weight), images)
    return Case(a, tensors, questions, eager)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_float32_says_what_eager_says(name: str) -> None:
    logits = _asked(name)

    assert (10_000, 10) == logits.shape
    assert np.abs(case().eager - logits).max() <= 1e-4
    assert 1.0 == same_top(case().eager, logits)


def test_bfloat16_agrees_on_nearly_all_or_is_refused() -> None:
    """A processor without it would compute in float32 and not say so."""
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ConfigurationError, match="BF16"):
            _asked("openvino-bfloat16")
        return

    assert same_top(case().eager, _asked("openvino-bfloat16")) >= 0.97


def _asked(name: str) -> Logits:
    engine = engine_named(name, threads=2)
    backbone = engine.load(case().architecture, case().tensors)
    return np.concatenate(backbone.answer(case().questions))

"""Every engine gives the logits of torch eager, whatever the statistics and shapes."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from core.architecture import Architecture
from core.blocks import encrypt
from core.convmixer import ConvMixer, initialise, put_together, take_apart
from core.keys import derive_key
from core.training import predict_logits
from core.transform import transform_embedding
from parties.inference_server.engine import Question
from parties.inference_server.engines.choice import engine_named
from parties.inference_server.engines.tensors import require_fit
from tests.strategies import architectures


def trained_by_chance(architecture: Architecture, seed: int) -> ConvMixer:
    """A network whose BatchNorms are not as torch first draws them."""
    model = initialise(architecture, seed).eval()
    drawn = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            for mean in (norm.running_mean, norm.weight.data, norm.bias.data):
                assert mean is not None
                mean.normal_(generator=drawn)
            norm.running_var.uniform_(0.2, 4, generator=drawn)
    return model


@pytest.mark.parametrize(("name", "examples"), [("onnxruntime", 60), ("openvino", 15)])
def test_folding_changes_no_logit(name: str, examples: int) -> None:
    """A mixed batch of two owners, against the whole plain model on plain images."""
    engine = engine_named(name, threads=1)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(architectures(), st.integers(0, 2**31), st.integers(1, 3))
    def holds(a: Architecture, seed: int, count: int) -> None:
        model = trained_by_chance(a, seed)
        weight, tensors = take_apart(model)
        shape = (2 * count, a.channels, a.height, a.width)
        images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        questions = []
        for number, part in enumerate(np.split(images, 2)):
            key = derive_key(
                bytes([number]) * 32,
                key_id="k",
                version=1,
                patch_size=a.patch_size,
                channels=a.channels,
            )
            owners = transform_embedding(weight, key)
            questions.append(Question(encrypt(part, key), owners))
        logits = engine.load(a, tensors).answer(questions)
        assert_allclose(
            np.concatenate(logits), predict_logits(model, images), atol=1e-4, rtol=1e-4
        )

    holds()


@given(architectures())
def test_the_names_without_torch_are_those_with_it(architecture: Architecture) -> None:
    """What `core.convmixer` writes fits, and what fits is read by it again."""
    tensors = take_apart(initialise(architecture, seed=1))[1]
    require_fit(architecture, tensors)

    assert put_together(architecture, tensors)

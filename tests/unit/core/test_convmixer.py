"""The network is the paper's, comes apart at the embedding and goes together again."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn
from torch.testing import assert_close

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise, put_together, take_apart
from core.errors import CorruptFileError
from core.training import predict_logits
from core.wire import dump_tensors, load_tensors

SMALL = Architecture(hidden=8, depth=2, kernel_size=3, height=8, width=12, classes=5)


def _images(architecture: Architecture, count: int = 3) -> np.ndarray:
    a = architecture
    shape = (count, a.channels, a.height, a.width)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _as_the_paper_writes_it(a: Architecture) -> nn.Sequential:
    """The authors' own program (arXiv 2201.09792, figure 3), with names for numbers."""

    class Residual(nn.Module):
        def __init__(self, fn: nn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed: torch.Tensor = self.fn(x)
            return mixed + x

    h, k, p = a.hidden, a.kernel_size, a.patch_size
    return nn.Sequential(
        nn.Conv2d(a.channels, h, kernel_size=p, stride=p),
        nn.GELU(),
        nn.BatchNorm2d(h),
        *[
            nn.Sequential(
                Residual(
                    nn.Sequential(
                        nn.Conv2d(h, h, k, groups=h, padding="same"),
                        nn.GELU(),
                        nn.BatchNorm2d(h),
                    )
                ),
                nn.Conv2d(h, h, kernel_size=1),
                nn.GELU(),
                nn.BatchNorm2d(h),
            )
            for _ in range(a.depth)
        ],
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(h, a.classes),
    )


def test_the_network_is_the_papers() -> None:
    """Same order of weights, same answers."""
    model = initialise(SMALL, seed=0)
    paper = _as_the_paper_writes_it(SMALL)
    states = zip(paper.state_dict(), model.state_dict().values(), strict=True)
    paper.load_state_dict(dict(states))
    images = torch.from_numpy(_images(SMALL))

    assert_close(model.train()(images), paper.train()(images))
    assert_close(model.eval()(images), paper.eval()(images))


def test_the_default_model_has_the_published_number_of_weights() -> None:
    model = ConvMixer(Architecture())

    assert sum(weight.numel() for weight in model.parameters()) == 89_226


def test_forward_is_the_embedding_and_then_the_tokens() -> None:
    model = initialise(SMALL, seed=0).eval()
    images = torch.from_numpy(_images(SMALL))
    tokens = model.embedding(images).permute(0, 2, 3, 1)

    assert tokens.shape == (3, SMALL.rows, SMALL.columns, SMALL.hidden)
    assert_close(model.forward_tokens(tokens), model(images))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 6])
def test_every_kernel_keeps_the_size_without_a_warning(kernel_size: int) -> None:
    architecture = Architecture(hidden=4, depth=1, kernel_size=kernel_size)
    model = initialise(architecture, seed=0)

    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_seed_gives_the_same_weights_and_leaves_torchs_own_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (initialise(SMALL, seed=7).state_dict() for _ in range(2))
    other = initialise(SMALL, seed=8).state_dict()

    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_only_the_kernel_of_the_embedding_is_kept_apart() -> None:
    model = initialise(SMALL, seed=0)
    weight, backbone = take_apart(model)

    assert_array_equal(weight, model.embedding.weight.detach().numpy())
    assert backbone.keys() == model.state_dict().keys() - {"embedding.weight"}
    assert "embedding.bias" in backbone


def test_a_model_goes_through_files_bit_for_bit() -> None:
    model = initialise(SMALL, seed=0).eval()
    weight, backbone = take_apart(model)
    read = load_tensors(dump_tensors(backbone))
    again = put_together(SMALL, read, weight)
    images = _images(SMALL)

    assert_array_equal(predict_logits(again, images), predict_logits(model, images))
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())


def test_what_is_taken_apart_is_a_copy() -> None:
    model = initialise(SMALL, seed=0)
    weight, backbone = take_apart(model)
    again = put_together(SMALL, backbone, weight)
    weight[:] = 0
    backbone["head.weight"][:] = 0

    for copy in (model, again):
        assert copy.embedding.weight.abs().max() > 0
        assert copy.head.weight.abs().max() > 0


def test_a_server_without_the_embedding_holds_zeros() -> None:
    _, backbone = take_apart(initialise(SMALL, seed=0))

    assert put_together(SMALL, backbone).embedding.weight.abs().max() == 0


@pytest.mark.parametrize("name", ["head.bias", "backbone.1.running_mean"])
def test_tensors_that_do_not_fit_are_refused_by_name(name: str) -> None:
    _, backbone = take_apart(initialise(SMALL, seed=0))
    missing = {key: tensor for key, tensor in backbone.items() if key != name}

    with pytest.raises(CorruptFileError, match=name):
        put_together(SMALL, missing)
    with pytest.raises(CorruptFileError, match=name):
        put_together(SMALL, {**backbone, name: np.zeros(1, dtype=np.float32)})
    with pytest.raises(CorruptFileError, match="surprise"):
        put_together(SMALL, {**backbone, "surprise": backbone[name]})


def test_tensors_of_another_type_are_refused_by_name() -> None:
    """An integer in place of a weight would load, and fail at the first image."""
    _, backbone = take_apart(initialise(SMALL, seed=0))
    wrong = {**backbone, "head.bias": backbone["head.bias"].astype(np.int64)}

    with pytest.raises(CorruptFileError, match=r"head\.bias"):
        put_together(SMALL, wrong)


def test_an_embedding_of_another_model_is_refused() -> None:
    _, backbone = take_apart(initialise(SMALL, seed=0))

    with pytest.raises(CorruptFileError, match=r"embedding\.weight"):
        put_together(SMALL, backbone, np.zeros((8, 3, 2, 2), dtype=np.float32))


def test_a_file_that_does_not_fit_takes_no_memory() -> None:
    """The embedding alone would take 64 MiB."""
    large = Architecture(hidden=16_384, depth=1, patch_size=16, channels=4)
    tracemalloc.start()
    with pytest.raises(CorruptFileError):
        put_together(large, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**23

"""ConvMixer once more, from the paper's words alone: weights by others' names.

Trockman & Kolter, arXiv 2201.09792, section 2: patches of p x p become h numbers each
by a convolution of stride p, an activation and a BatchNorm; each of d blocks is a
depthwise convolution with activation and BatchNorm, added to what it was given, and a
pointwise convolution with activation and BatchNorm; then the mean over places, and a
linear map.
Nothing here is keymixer's, so that nothing it gets wrong is wrong here too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, pad, relu

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of one network, and how many classes it tells apart."""

    hidden: int
    depth: int
    kernel: int
    patch: int
    classes: int
    relu: bool = False
    channels: int = 3


@dataclass(frozen=True)
class Names:
    """Where each layer's weights are, by what somebody calls it."""

    embedding: str
    first: str
    block: Callable[[int], str]
    head: str


def timm() -> Names:
    return Names("stem.0", "stem.2", lambda i: f"blocks.{i}", "head")


def locuslab(depth: int) -> Names:
    """Places in one list: 3 layers before the blocks, and 2 without weights after."""
    return Names("0", "2", lambda i: str(3 + i), str(3 + depth + 2))


def random_weights(shape: Shape, names: Names, seed: int) -> State:
    """Weights and running statistics that are not as any program first draws them."""
    drawn = torch.Generator().manual_seed(seed)
    state: State = {}

    def layer(name: str, *sizes: int) -> None:
        deviation = torch.Size(sizes[1:]).numel() ** -0.5
        state[f"{name}.weight"] = torch.randn(sizes, generator=drawn) * deviation
        state[f"{name}.bias"] = torch.randn(sizes[0], generator=drawn) * 0.1

    def norm(name: str) -> None:
        for part in ("weight", "running_var"):
            uniform = torch.rand(shape.hidden, generator=drawn)
            state[f"{name}.{part}"] = uniform + 0.5
        for part in ("bias", "running_mean"):
            normal = torch.randn(shape.hidden, generator=drawn)
            state[f"{name}.{part}"] = normal * 0.3
        state[f"{name}.num_batches_tracked"] = torch.tensor(17)

    h, p, k = shape.hidden, shape.patch, shape.kernel
    layer(names.embedding, h, shape.channels, p, p)
    norm(names.first)
    for i in range(shape.depth):
        block = names.block(i)
        layer(f"{block}.0.fn.0", h, 1, k, k)
        norm(f"{block}.0.fn.2")
        layer(f"{block}.1", h, h, 1, 1)
        norm(f"{block}.3")
    layer(names.head, shape.classes, h)
    return state


def forward(state: State, names: Names, shape: Shape, images: Tensor) -> Tensor:
    """Logits of normalised images [n, c, height, width]."""
    activate = relu if shape.relu else gelu

    def normalised(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].reshape(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def convolved(x: Tensor, name: str, **more: int) -> Tensor:
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **more)

    x = convolved(images, names.embedding, stride=shape.patch)
    x = normalised(activate(x), names.first)
    for i in range(shape.depth):
        block = names.block(i)
        # The size stays; of an even kernel the longer half lies after.
        before, after = (shape.kernel - 1) // 2, shape.kernel // 2
        padded = pad(x, (before, after, before, after))
        places = convolved(padded, f"{block}.0.fn.0", groups=shape.hidden)
        x = x + normalised(activate(places), f"{block}.0.fn.2")
        x = normalised(activate(convolved(x, f"{block}.1")), f"{block}.3")
    pooled = x.mean(dim=(2, 3))
    head = names.head
    return pooled @ state[f"{head}.weight"].T + state[f"{head}.bias"]

"""ConvMixer (Trockman & Kolter 2022, arXiv 2201.09792), cut where the key goes in.

Three named stages: `embedding` reads patches, `backbone` mixes tokens, `head` decides.
A key changes the embedding only, so a server needs the other two and `forward_tokens`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from core.architecture import Activation, Architecture
from core.errors import CorruptFileError

EMBEDDING_WEIGHT = "embedding.weight"

_ACTIVATIONS: Final[Mapping[Activation, type[nn.Module]]] = MappingProxyType(
    {"gelu": nn.GELU, "relu": nn.ReLU}
)


class ConvMixer(nn.Module):
    """The network of the paper, with its weights as torch draws them."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.embedding = nn.Conv2d(a.channels, a.hidden, a.patch_size, a.patch_size)
        self.backbone = nn.Sequential(
            *_activation(a),
            *(_mixing_block(a) for _ in range(a.depth)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(a.hidden, a.classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.head(self.backbone(self.embedding(images)))

    def forward_tokens(
        self, tokens: Float[Tensor, "n rows columns hidden"]
    ) -> Float[Tensor, "n classes"]:
        """Go on from tokens that already hold the embedding's bias."""
        planes = rearrange(tokens, "n rows columns hidden -> n hidden rows columns")
        return self.head(self.backbone(planes))


class Residual(nn.Module):
    """`x + fn(x)`."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


def embed_blocks(
    blocks: Float[Tensor, "n rows columns d"],
    weight: Float[Tensor, "hidden d"],
    bias: Float[Tensor, " hidden"],
) -> Float[Tensor, "n rows columns hidden"]:
    """Turn blocks into tokens, `W x + b`: the patch embedding as a matrix product.

    With an issued embedding `W A^T` and encrypted blocks `A x` the tokens are those of
    the plain model on the plain image (Aso, Chuman & Kiya, arXiv 2301.03843).
    """
    return linear(blocks, weight, bias)


def initialise(architecture: Architecture, seed: int) -> ConvMixer:
    """Draw a network's first weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvMixer(architecture)


def take_apart(model: ConvMixer) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Split the weights: the patch embedding, float32 [h,c,p,p], and all the others.

    The first is as secret as a key; the others, its bias among them, are the backbone.
    """
    tensors = {
        name: np.array(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in model.state_dict().items()
    }
    return tensors.pop(EMBEDDING_WEIGHT), tensors


def put_together(
    architecture: Architecture,
    backbone: Mapping[str, np.ndarray],
    embedding: np.ndarray | None = None,
) -> ConvMixer:
    """Build a network, ready to answer, from what `take_apart` gave.

    Without the embedding its weight is zero: such a network reads tokens, not images.
    """
    with torch.device("meta"):
        model = ConvMixer(architecture)
    if embedding is None:
        # A view of one number: nothing is allocated for a file that does not fit.
        embedding = np.broadcast_to(np.float32(0), model.embedding.weight.shape)
    tensors = {**backbone, EMBEDDING_WEIGHT: embedding}
    _require_fit(tensors, model.state_dict())
    state = {name: torch.from_numpy(np.array(t)) for name, t in tensors.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def _require_fit(
    tensors: Mapping[str, np.ndarray], state: Mapping[str, Tensor]
) -> None:
    got = {name: f"{t.dtype} {tuple(t.shape)}" for name, t in tensors.items()}
    expected = {name: f"{_dtype(t)} {tuple(t.shape)}" for name, t in state.items()}
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            raise CorruptFileError(
                f"{name} does not fit the architecture: "
                f"expected {expected.get(name)}, got {got.get(name)}"
            )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _mixing_block(a: Architecture) -> nn.Sequential:
    pointwise = nn.Conv2d(a.hidden, a.hidden, 1)
    return nn.Sequential(
        Residual(nn.Sequential(_depthwise(a), *_activation(a))),
        pointwise,
        *_activation(a),
    )


def _depthwise(a: Architecture) -> nn.Module:
    if a.kernel_size % 2:
        return nn.Conv2d(
            a.hidden, a.hidden, a.kernel_size, groups=a.hidden, padding="same"
        )
    # The same, but torch warns about the copy that uneven padding takes.
    before, after = (a.kernel_size - 1) // 2, a.kernel_size // 2
    unpadded = nn.Conv2d(a.hidden, a.hidden, a.kernel_size, groups=a.hidden)
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), unpadded)


def _activation(a: Architecture) -> tuple[nn.Module, nn.Module]:
    return _ACTIVATIONS[a.activation](), nn.BatchNorm2d(a.hidden)

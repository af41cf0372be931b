"""What others call the weights of a ConvMixer, and which shapes they must have.

timm's names are those of its module `convmixer` (`stem.0`, `blocks.7.0.fn.0`, `head`);
locuslab's are the numbers of the authors' `Sequential` (`0`, `10.0.fn.0`, `13`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from core.architecture import Architecture
from core.convmixer import ConvMixer
from core.errors import NonFiniteError
from parties.model_provider.errors import CheckpointError

# Before the blocks of `core.convmixer` stand an activation and its BatchNorm.
_BEFORE_BLOCKS: Final = 2
_COUNT: Final = "num_batches_tracked"
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHOWN: Final = 3
_KERNEL_AXES: Final = 4


@dataclass(frozen=True, slots=True)
class Naming:
    """One way to name the weights; `blocks` and `shift` say where block 0 stands."""

    name: str
    embedding: str
    first_norm: str
    blocks: str
    shift: int
    # Empty: what follows the blocks and two layers without weights.
    head: str

    def of_block(self, number: int) -> str:
        return f"{self.blocks}{number + self.shift}"

    def of_head(self, depth: int) -> str:
        return self.head or self.of_block(depth + _BEFORE_BLOCKS)

    def of(self, ours: str, depth: int) -> str:
        """Their name for a weight that `core.convmixer` names `ours`."""
        stage, _, rest = ours.partition(".")
        if stage == "embedding":
            return f"{self.embedding}.{rest}"
        if stage == "head":
            return f"{self.of_head(depth)}.{rest}"
        number, _, rest = rest.partition(".")
        if int(number) < _BEFORE_BLOCKS:
            return f"{self.first_norm}.{rest}"
        # Ours stands behind its padding if the kernel is even.
        rest = rest.replace("0.fn.0.1.", "0.fn.0.")
        return f"{self.of_block(int(number) - _BEFORE_BLOCKS)}.{rest}"


TIMM: Final = Naming("timm", "stem.0", "stem.2", "blocks.", 0, "head")
LOCUSLAB: Final = Naming("locuslab", "0", "2", "", 3, "")
NAMINGS: Final = (TIMM, LOCUSLAB)


def naming_of(tensors: Mapping[str, Tensor]) -> Naming:
    """Whose names these are, or `CheckpointError`."""
    for naming in NAMINGS:
        weight = tensors.get(f"{naming.embedding}.weight")
        if weight is not None and weight.ndim == _KERNEL_AXES:
            return naming
    wanted = " nor ".join(f"{each.embedding}.weight ({each.name})" for each in NAMINGS)
    raise CheckpointError(
        f"no patch embedding: neither {wanted}; it has {_listed(list(tensors))}"
    )


def outputs(tensors: Mapping[str, Tensor], naming: Naming) -> int:
    """How many classes the head has, by its own shape, or `CheckpointError`."""
    blocks = _blocks(tensors, naming)
    head = tensors.get(f"{naming.of_head(blocks)}.bias")
    if head is None or head.ndim != 1:
        raise CheckpointError(
            f"no classifier: {naming.of_head(blocks)}.bias is missing after {blocks} "
            "blocks"
        )
    return len(head)


def renamed(
    tensors: Mapping[str, Tensor], naming: Naming, architecture: Architecture
) -> dict[str, np.ndarray]:
    """The weights as `core.convmixer` names and stores them, every shape checked.

    Raises:
        CheckpointError: names or shapes are not the architecture's; it says which, and
            what the file holds instead.
        NonFiniteError: a weight is NaN or infinity.
    """
    with torch.device("meta"):
        wanted = ConvMixer(architecture).state_dict()
    theirs = {ours: naming.of(ours, architecture.depth) for ours in wanted}
    found = {**_counts(theirs.values()), **tensors}
    _require_names(set(theirs.values()), found, naming)
    for ours, name in theirs.items():
        _require_shape(name, wanted[ours], found, naming)
    return {ours: _stored(name, found[name]) for ours, name in theirs.items()}


def seen(tensors: Mapping[str, Tensor], naming: Naming) -> str:
    """What the file holds, in the form of --arch."""
    weight = tensors[f"{naming.embedding}.weight"]
    kernel = tensors.get(f"{naming.of_block(0)}.0.fn.0.weight")
    size = "?" if kernel is None else kernel.shape[-1]
    depth = _blocks(tensors, naming)
    return f"convmixer_{weight.shape[0]}_{depth}_ks{size}_p{weight.shape[-1]}"


def _blocks(tensors: Mapping[str, Tensor], naming: Naming) -> int:
    depth = 0
    while f"{naming.of_block(depth)}.0.fn.0.weight" in tensors:
        depth += 1
    return depth


def _counts(names: Iterable[str]) -> dict[str, Tensor]:
    """Torch counts the batches of training; old files lack it, nothing needs it."""
    zero = torch.zeros((), dtype=torch.int64)
    return {name: zero for name in names if name.endswith(_COUNT)}


def _require_names(
    wanted: set[str], found: Mapping[str, Tensor], naming: Naming
) -> None:
    missing = sorted(wanted - found.keys())
    surplus = sorted(found.keys() - wanted)
    if missing or surplus:
        told = [f"missing {_listed(missing)}"] if missing else []
        told += [f"unexpected {_listed(surplus)}"] if surplus else []
        raise CheckpointError(
            f"{'; '.join(told)}; the file looks like {seen(found, naming)}"
        )


def _require_shape(
    name: str, wanted: Tensor, found: Mapping[str, Tensor], naming: Naming
) -> None:
    if found[name].shape != wanted.shape:
        raise CheckpointError(
            f"{name}: expected {_size(wanted)}, got {_size(found[name])}; the file "
            f"looks like {seen(found, naming)}"
        )


def _stored(name: str, tensor: Tensor) -> np.ndarray:
    if name.endswith(_COUNT):
        return np.asarray(tensor.to(torch.int64).numpy())
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{name}: expected floating point numbers, got {kind}")
    numbers = np.array(tensor.detach().to(torch.float32).numpy(), order="C")
    if not np.isfinite(numbers).all():
        raise NonFiniteError(f"{name} holds NaN or infinity")
    if name.endswith("running_var") and (numbers < 0).any():
        raise CheckpointError(f"{name}: expected variances from 0")
    return numbers


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"{name:.60}" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown

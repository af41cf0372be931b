"""A checkpoint that somebody else has written, read as tensors and as nothing more."""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from core.wire import read_file
from parties.model_provider.errors import CheckpointError, MoreThanWeightsError

SAFETENSORS: Final = ".safetensors"
# `.pth.tar` is a habit: it is no tar.
TORCH: Final = (".pt", ".pth", ".pth.tar")

# Where checkpoints keep the weights among other things; the first one is taken. An
# average over the last steps, where there is one, is what was evaluated.
ENTRIES: Final = (
    *("state_dict_ema", "model_ema"),
    *("state_dict", "model", "model_state_dict"),
)
# What wrappers put before every name.
_PREFIXES: Final = ("module.", "_orig_mod.")
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]{1,100})")
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Named tensors, the SHA-256 of their file in hex, and how they lay in it.

    `entry` is what of the file was taken, empty if it holds nothing else; `prefix` is
    what stood before every name.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    digest: str
    entry: str = ""
    prefix: str = ""


def read_checkpoint(path: Path, entry: str = "") -> Checkpoint:
    """Read a safetensors file, or a file of torch's in which are only weights.

    Args:
        path: The suffix says which of both it is.
        entry: What of a file to take; empty: the first of `ENTRIES` that it has.

    Raises:
        MoreThanWeightsError: a pickle needs more than weights. Nothing of it is run.
        CheckpointError: it is no such file, or holds no weights.
    """
    data = read_file(path)
    content = _parsed(path, data)
    taken = entry or _entry_of(content)
    if taken and taken not in content:
        raise CheckpointError(f"{path}: no {taken:.40} in it; it has {_some(content)}")
    tensors = _tensors(path, content[taken] if taken else content, taken)
    names, prefix = _without_prefix(tensors)
    return Checkpoint(names, hashlib.sha256(data).hexdigest(), taken, prefix)


def _parsed(path: Path, data: bytes) -> Mapping[str, Any]:
    name = path.name.lower()
    if name.endswith(SAFETENSORS):
        return _from_safetensors(path, data)
    if not name.endswith(TORCH):
        known = ", ".join((SAFETENSORS, *TORCH))
        raise CheckpointError(f"{path}: expected a file that ends in {known}")
    content = _from_torch(path, data)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected weights by name")
    return {str(name): value for name, value in content.items()}


def _from_safetensors(path: Path, data: bytes) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = parse_safetensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    return tensors


def _from_torch(path: Path, data: bytes) -> Any:
    """Let torch unpickle weights, and neither call nor import anything else."""
    try:
        with warnings.catch_warnings():
            # Of old formats; the user can do nothing about them.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        what = named[1] if named else "something torch does not write for weights"
        raise MoreThanWeightsError(f"{path}: its pickle asks for {what}") from error
    except Exception as error:  # What torch raises for a damaged file is no closed list
        kind = type(error).__name__
        raise CheckpointError(f"{path}: torch cannot read it ({kind})") from error


def _entry_of(content: Mapping[str, Any]) -> str:
    """What of the content holds the weights; empty: it is nothing else."""
    found = (each for each in ENTRIES if isinstance(content.get(each), Mapping))
    return next(found, "")


def _tensors(path: Path, found: Any, entry: str) -> dict[str, Tensor]:
    where = f"{path}: {entry}" if entry else str(path)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{where}: expected weights by name")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            kind = type(value).__name__
            raise CheckpointError(
                f"{where}: {name!s:.80} is no weight but a {kind}; weights are looked "
                f"for under {', '.join(ENTRIES)}, or under what --entry names"
            )
    return {str(name): value for name, value in found.items()}


def _without_prefix(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take away what stands before every name, however often."""
    names, taken = dict(tensors), ""
    while prefix := _prefix_of(names):
        names = {name.removeprefix(prefix): each for name, each in names.items()}
        taken += prefix
    return names, taken


def _prefix_of(names: Mapping[str, Tensor]) -> str:
    found = (p for p in _PREFIXES if all(name.startswith(p) for name in names))
    return next(found, "")


def _some(names: Mapping[str, Any]) -> str:
    shown = [f"{name:.40}" for name in list(names)[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")

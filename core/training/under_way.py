"""A training under way: everything that its next step depends on, and a copy of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from core.convmixer import ConvMixer
from core.errors import CorruptFileError
from core.training.average import averaged, module_of
from core.training.recipe import Recipe
from core.training.steps import Optimisation, convert_kernels

_MODEL: Final = "model."
_AVERAGE: Final = "average."
_BEST: Final = "best."
_OPTIMISER: Final = "optimiser."
_GENERATOR: Final = "generator"


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A training after a whole epoch; as secret as the model.

    `tensors` are float32 or int64, for a safetensors file; `numbers` are for a JSON
    document, which keeps every digit of a float.
    """

    epoch: int
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    numbers: Mapping[str, Any]


@dataclass(slots=True)
class Best:
    """The best validation accuracy so far, its epoch, and the weights it had."""

    accuracy: float = -1.0
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)


@dataclass(slots=True, eq=False)
class UnderWay:
    """Model, average, optimiser, learning rate, random numbers, and the best so far."""

    model: ConvMixer
    recipe: Recipe
    optimisation: Optimisation
    generator: Generator
    average: AveragedModel | None
    epoch: int = 0
    best: Best = field(default_factory=Best)

    @classmethod
    def begin(cls, model: ConvMixer, recipe: Recipe, steps: int) -> "UnderWay":
        """Begin anew with the weights that the model has."""
        convert_kernels(model)
        return cls(
            model,
            recipe,
            Optimisation.of(model, recipe, steps),
            Generator().manual_seed(recipe.seed),
            averaged(model, recipe.ema) if recipe.ema else None,
        )

    @property
    def answering(self) -> ConvMixer:
        """The model that is evaluated and kept: the average, if there is one."""
        return self.model if self.average is None else module_of(self.average)

    def stepped(self) -> None:
        """Let the average follow the step that was made."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def judge(self, accuracy: float | None) -> bool:
        """End an epoch; say if its weights are the ones to keep, as of now."""
        self.epoch += 1
        if accuracy is None:
            return True
        if accuracy <= self.best.accuracy:
            return False
        weights = self.answering.state_dict()
        copies = {name: tensor.clone() for name, tensor in weights.items()}
        self.best = Best(accuracy, self.epoch, copies)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether it got no better for as many epochs as the recipe is patient."""
        waited = self.epoch - self.best.epoch
        return bool(self.recipe.patience and waited >= self.recipe.patience)

    def end(self) -> None:
        """Give the model the weights that are kept."""
        kept = self.best.weights or self.answering.state_dict()
        self.model.load_state_dict(kept)
        self.model.eval()

    def snapshot(self) -> Snapshot:
        """Copy everything that the next step depends on."""
        state = self.optimisation.optimiser.state_dict()
        tensors = {
            **_prefixed(_MODEL, self.model.state_dict()),
            **_prefixed(_BEST, self.best.weights),
            **_moments(state["state"]),
            # Bytes, eight to a number.
            _GENERATOR: self.generator.get_state().view(torch.int64),
        }
        if self.average is not None:
            tensors |= _prefixed(_AVERAGE, self.average.state_dict())
        numbers = {
            "groups": state["param_groups"],
            "schedule": self.optimisation.schedule.state_dict(),
            "best": {"accuracy": self.best.accuracy, "epoch": self.best.epoch},
        }
        return Snapshot(
            self.epoch,
            {name: np.array(t.detach().numpy()) for name, t in tensors.items()},
            numbers,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where a snapshot was taken.

        Raises:
            CorruptFileError: it is of another model or another recipe.
        """
        tensors = {n: torch.from_numpy(t) for n, t in snapshot.tensors.items()}
        try:
            self.model.load_state_dict(_under(_MODEL, tensors))
            if self.average is not None:
                self.average.load_state_dict(_under(_AVERAGE, tensors))
            _restore_optimiser(self.optimisation.optimiser, tensors, snapshot.numbers)
            self.optimisation.schedule.load_state_dict(snapshot.numbers["schedule"])
            self.generator.set_state(tensors[_GENERATOR].view(torch.uint8))
            self.best = Best(**snapshot.numbers["best"], weights=_under(_BEST, tensors))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CorruptFileError(f"no training of this model: {error}") from error
        self.epoch = snapshot.epoch


def _restore_optimiser(
    optimiser: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(_OPTIMISER, tensors).items():
        number, entry = name.split(".")
        state.setdefault(int(number), {})[entry] = tensor
    groups = [{**group, "betas": tuple(group["betas"])} for group in numbers["groups"]]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    for parameter, entries in optimiser.state.items():
        for entry, tensor in entries.items():
            if tensor.shape == parameter.shape:
                # In the order of the weights, as it was: another one may round
                # otherwise.
                entries[entry] = torch.empty_like(parameter).copy_(tensor).detach()


def _moments(state: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{_OPTIMISER}{number}.{entry}": tensor
        for number, entries in state.items()
        for entry, tensor in entries.items()
    }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in found}

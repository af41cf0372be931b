"""One step after the other: what changes a model's weights, and how fast."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from core.convmixer import ConvMixer
from core.errors import TrainingDivergedError
from core.training.augmentation import augment, mix
from core.training.examples import Examples
from core.training.recipe import Recipe

OptimiserName = Literal["adamw", "sgd"]
# What is added to the loss of a step.
Penalty = Callable[[ConvMixer], Tensor]


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What changes a model's weights, and how fast."""

    optimiser: Optimizer
    schedule: LRScheduler

    @classmethod
    def of(cls, model: ConvMixer, recipe: Recipe, steps: int) -> "Optimisation":
        """One cycle of the learning rate over all steps."""
        optimiser = _optimiser("adamw", model, recipe)
        return cls(optimiser, OneCycleLR(optimiser, recipe.max_lr, total_steps=steps))

    @classmethod
    def steady(
        cls, model: ConvMixer, recipe: Recipe, name: OptimiserName
    ) -> "Optimisation":
        """One rate from the first step to the last."""
        optimiser = _optimiser(name, model, recipe)
        return cls(optimiser, LambdaLR(optimiser, lambda _: 1.0))


def train_epoch(
    model: ConvMixer,
    train: Examples,
    recipe: Recipe,
    optimisation: Optimisation,
    generator: Generator,
    *,
    penalty: Penalty | None = None,
) -> Iterator[float]:
    """See every image once, in a new order, and yield the loss of each step."""
    classes = model.architecture.classes
    order = torch.randperm(len(train), generator=generator).numpy()
    for step in range(steps_per_epoch(len(train), recipe.batch)):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        images = augment(torch.from_numpy(train.images[chosen]), recipe, generator)
        if train.shield is not None:
            images = train.shield(images, generator)
        labels = torch.from_numpy(train.labels[chosen])
        images, targets = mix(images, labels, classes, recipe, generator)
        loss = cross_entropy(
            _asked(model, images), targets, label_smoothing=recipe.label_smoothing
        )
        yield _step(model, loss, optimisation, penalty)


def steps_per_epoch(count: int, batch: int) -> int:
    """How many batches of so many images; one at least."""
    # An incomplete batch is left to another epoch: BatchNorm learns badly from few.
    return max(1, count // batch)


def convert_kernels(model: Module) -> None:
    """Order the kernels like the images: it halves the time of a depthwise step."""
    for weight in model.parameters():
        if weight.ndim == len("nchw"):
            weight.data = channels_last(weight.data)


def channels_last(images: Tensor) -> Tensor:
    """Order the numbers as the fast convolution kernels want them."""
    return images.contiguous(memory_format=torch.channels_last)


def _asked(model: ConvMixer, images: Tensor) -> Tensor:
    model.train()
    logits: Tensor = model(channels_last(images))
    return logits


def _step(
    model: ConvMixer,
    loss: Tensor,
    optimisation: Optimisation,
    penalty: Penalty | None,
) -> float:
    if penalty is not None:
        loss = loss + penalty(model)
    if not torch.isfinite(loss):
        raise TrainingDivergedError("the loss is NaN or infinite")
    optimisation.optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimisation.optimiser.step()
    optimisation.schedule.step()
    return loss.item()


def _optimiser(name: OptimiserName, model: ConvMixer, recipe: Recipe) -> Optimizer:
    kind: type[AdamW | SGD] = AdamW if name == "adamw" else SGD
    return kind(model.parameters(), lr=recipe.max_lr, weight_decay=recipe.weight_decay)

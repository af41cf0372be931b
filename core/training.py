"""Train a ConvMixer and ask it: functions of model, images and recipe."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, pad
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from core.convmixer import ConvMixer
from core.errors import ConfigurationError, DataError, TrainingDivergedError
from core.shielding import Shielding

Images = Float32[np.ndarray, "n c h w"]
Logits = Float32[np.ndarray, "n classes"]
OptimiserName = Literal["adamw", "sgd"]
# What is added to the loss of a step.
Penalty = Callable[[ConvMixer], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Normalised images and the index of each one's class.

    With `shield` a model reads what it leaves of them: it is applied to every batch,
    after the images were cropped and flipped.
    """

    images: Images
    labels: Int64[np.ndarray, " n"]
    shield: Shielding | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.float32 or self.images.ndim != len("nchw"):
            raise DataError(
                f"expected float32 images of 4 axes, got {self.images.dtype} "
                f"of {self.images.ndim}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"expected {len(self.images)} int64 labels, "
                f"got {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: AdamW, one cycle of the learning rate, crops and flips.

    `pad` is in pixels: each image is reflected at its edges by that much, and a crop of
    its own size is taken anywhere in it. The defaults reach 70 % on CIFAR-10.
    """

    epochs: int = 6
    batch: int = 128
    max_lr: float = 0.01
    weight_decay: float = 0.01
    pad: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "max_lr"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}: expected a number above 0")
        for name in ("weight_decay", "pad", "seed"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name}: expected a number from 0 up")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step; an epoch's last has `accuracy`, 0..1."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float | None
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What changes a model's weights, and how fast."""

    optimiser: Optimizer
    schedule: LRScheduler

    @classmethod
    def of(cls, model: ConvMixer, recipe: Recipe, steps: int) -> "Optimisation":
        optimiser = _optimiser("adamw", model, recipe)
        return cls(optimiser, OneCycleLR(optimiser, recipe.max_lr, total_steps=steps))

    @classmethod
    def steady(
        cls, model: ConvMixer, recipe: Recipe, name: OptimiserName
    ) -> "Optimisation":
        """One rate from the first step to the last."""
        optimiser = _optimiser(name, model, recipe)
        return cls(optimiser, LambdaLR(optimiser, lambda _: 1.0))


def fit(
    model: ConvMixer,
    train: Examples,
    test: Examples | None,
    recipe: Recipe,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[Progress, ...]:
    """Train in place and return the last progress of each epoch: the training curve.

    With the same weights, images, recipe and number of threads, the result is the same.
    """
    _require_usable(model, train, recipe)
    steps_per_epoch = _steps_per_epoch(len(train), recipe.batch)
    steps = recipe.epochs * steps_per_epoch
    optimisation = Optimisation.of(model, recipe, steps)
    generator = Generator().manual_seed(recipe.seed)
    _convert_kernels(model)
    started = time.monotonic()
    curve: list[Progress] = []
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for loss in train_epoch(model, train, recipe, optimisation, generator):
            step += 1
            last = step == epoch * steps_per_epoch
            accuracy = evaluate(model, test) if last and test is not None else None
            seconds_left = (time.monotonic() - started) / step * (steps - step)
            progress = Progress(epoch, step, steps, loss, accuracy, seconds_left)
            on_progress(progress)
            if last:
                curve.append(progress)
    model.eval()
    return tuple(curve)


def fit_steadily(
    model: ConvMixer,
    train: Examples,
    recipe: Recipe,
    optimiser: OptimiserName = "adamw",
    penalty: Penalty | None = None,
) -> tuple[float, ...]:
    """Train in place at the rate `max_lr` and return the loss of each step.

    It is what one site does in one round of federated training.
    """
    _require_usable(model, train, recipe)
    optimisation = Optimisation.steady(model, recipe, optimiser)
    generator = Generator().manual_seed(recipe.seed)
    _convert_kernels(model)
    losses = tuple(
        loss
        for _ in range(recipe.epochs)
        for loss in train_epoch(
            model, train, recipe, optimisation, generator, penalty=penalty
        )
    )
    model.eval()
    return losses


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
    order = torch.randperm(len(train), generator=generator).numpy()
    for step in range(_steps_per_epoch(len(train), recipe.batch)):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        images = torch.from_numpy(train.images[chosen])
        labels = torch.from_numpy(train.labels[chosen])
        images = augment(images, recipe, generator)
        if train.shield is not None:
            images = train.shield(images, generator)
        yield _step(model, images, labels, optimisation, penalty)


def evaluate(model: ConvMixer, examples: Examples, batch: int = 500) -> float:
    """Return the share of images, 0..1, whose class the model names."""
    logits = predict_logits(model, examples.images, batch, examples.shield)
    return float((logits.argmax(axis=1) == examples.labels).mean())


def predict_logits(
    model: ConvMixer, images: Images, batch: int = 500, shield: Shielding | None = None
) -> Logits:
    """Ask the plain model; its mode, training or not, is left as it was.

    A shield's noise is the same in each call.
    """
    was_training = model.training
    # BatchNorm must use what it learned, not the images at hand.
    model.eval()
    generator = Generator().manual_seed(0)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            read = torch.tensor(images[start : start + batch])
            if shield is not None:
                read = shield(read, generator)
            parts.append(model(_channels_last(read)).numpy())
    model.train(was_training)
    empty = np.zeros((0, model.architecture.classes), dtype=np.float32)
    return np.concatenate([empty, *parts])


def augment(
    images: Float[Tensor, "n c h w"], recipe: Recipe, generator: Generator
) -> Float[Tensor, "n c h w"]:
    """Crop each image out of its reflected surroundings, and flip half of them.

    All crops of all images are one strided view; taking one each is a single gather.
    """
    n, _, height, width = images.shape
    reflected = pad(images, [recipe.pad] * 4, mode="reflect")
    crops = reflected.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * recipe.pad + 1, (2, n), generator=generator)
    cropped = crops[torch.arange(n), :, top, left]
    if not recipe.flip:
        return cropped
    flipped = torch.rand(n, generator=generator) < 0.5  # noqa: PLR2004  half of them
    return torch.where(flipped[:, None, None, None], cropped.flip(3), cropped)


def _optimiser(name: OptimiserName, model: ConvMixer, recipe: Recipe) -> Optimizer:
    kind = {"adamw": AdamW, "sgd": SGD}[name]
    return kind(model.parameters(), lr=recipe.max_lr, weight_decay=recipe.weight_decay)


def _step(
    model: ConvMixer,
    images: Tensor,
    labels: Tensor,
    optimisation: Optimisation,
    penalty: Penalty | None,
) -> float:
    model.train()
    loss = cross_entropy(model(_channels_last(images)), labels)
    if penalty is not None:
        loss = loss + penalty(model)
    if not torch.isfinite(loss):
        raise TrainingDivergedError("the loss is NaN or infinite")
    optimisation.optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimisation.optimiser.step()
    optimisation.schedule.step()
    return loss.item()


def _convert_kernels(model: ConvMixer) -> None:
    """Order the kernels like the images: it halves the time of a depthwise step."""
    for weight in model.parameters():
        if weight.ndim == len("nchw"):
            weight.data = _channels_last(weight.data)


def _channels_last(images: Tensor) -> Tensor:
    """Order the numbers as the fast convolution kernels want them."""
    return images.contiguous(memory_format=torch.channels_last)


def _steps_per_epoch(count: int, batch: int) -> int:
    # An incomplete batch is left to another epoch: BatchNorm learns badly from few.
    return max(1, count // batch)


def _require_usable(model: ConvMixer, train: Examples, recipe: Recipe) -> None:
    a = model.architecture
    if len(train) < 2:  # noqa: PLR2004  BatchNorm has no variance of one image
        raise DataError(f"expected at least 2 images to train on, got {len(train)}")
    if (got := _read_shape(train)) != (a.channels, a.height, a.width):
        raise DataError(
            f"expected images of {(a.channels, a.height, a.width)}, got {got}"
        )
    if train.labels.min() < 0 or train.labels.max() >= a.classes:
        raise DataError(f"expected labels of 0 to {a.classes - 1}")
    if recipe.pad >= min(train.images.shape[2:]):
        raise ConfigurationError(f"pad: expected less than the image, got {recipe.pad}")


def _read_shape(train: Examples) -> tuple[int, ...]:
    """What of an image the model reads: all of it, or what the shield leaves."""
    channels, height, width = train.images.shape[1:]
    if train.shield is None:
        return channels, height, width
    outputs, _, side, _ = train.shield.kernel.shape
    return outputs, height // side, width // side

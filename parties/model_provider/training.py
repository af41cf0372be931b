"""Train a ConvMixer on a dataset, from weights that nobody else can draw."""

import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise
from core.datasets import Dataset
from core.preprocessing import Preprocessing, normalise
from core.principal import moments_of
from core.shield import Shield, ShieldPlan, shielded
from core.shielding import Shielding
from core.training import Examples, Progress, Recipe, fit
from parties.model_provider.release import Epoch

FROM_THE_SYSTEM = "drawn from the operating system"
_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train: a name, a shape, a recipe, and the seed if it is to be known.

    The trained embedding is as secret as a key. Without a seed its first weights come
    from the operating system. With one, whoever knows the seed and the data can train
    the same embedding again: for experiments only.
    """

    name: str
    hidden: int = 128
    depth: int = 4
    kernel_size: int = 5
    patch_size: int = 4
    recipe: Recipe = field(default_factory=Recipe)
    seed: int | None = None
    # What owners apply before the key.
    shield: ShieldPlan = field(default_factory=ShieldPlan)


class PixelSums(NamedTuple):
    """One channel of some images: how many pixels, their sum, and that of squares."""

    pixels: int
    values: int
    squares: int


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model and all that its manifest will say of it."""

    name: str
    model: ConvMixer = field(repr=False)
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    curve: tuple[Epoch, ...]
    lineage: Mapping[str, Any]
    shield: Shield | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy on the test split after the last epoch, 0..1."""
        return self.curve[-1].accuracy


def train(
    data: tuple[Dataset, Dataset],
    plan: Plan,
    on_step: Callable[[Progress], None],
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Train on the first dataset and evaluate on the second after every epoch."""
    training, test = data
    preprocessing = preprocessing_of(training.images)
    whole = _architecture(plan, training)
    shield = _shield(plan, training, preprocessing)
    seed = chosen_seed(plan.seed)
    model = first_model(shielded(whole, shield), plan.seed, seed)
    curve = _Curve(on_step, on_epoch)
    front = None if shield is None else Shielding.of(shield)
    examples, unseen = (
        Examples(normalise(part.images, preprocessing), part.labels.copy(), front)
        for part in data
    )
    fit(model, examples, unseen, replace(plan.recipe, seed=seed), curve)
    return Trained(
        name=plan.name,
        model=model,
        preprocessing=preprocessing,
        classes=training.classes,
        curve=tuple(curve.epochs),
        lineage=_lineage(plan, training, test),
        shield=shield,
    )


def preprocessing_of(images: ndarray) -> Preprocessing:
    """Return size, and mean and deviation of each channel, of uint8 NHWC images.

    A constant channel gets the deviation 1: there is nothing to scale.
    """
    _, height, width, _ = images.shape
    return preprocessing_from((height, width), sums_of(images))


def preprocessing_from(
    size: tuple[int, int], sums: Sequence[PixelSums]
) -> Preprocessing:
    """Return the same from the sums over each channel, which sites may add up."""
    moments = [_moments(channel) for channel in sums]
    return Preprocessing(
        *size,
        len(sums),
        mean=tuple(round(mean, 4) for mean, _ in moments),
        std=tuple(round(std, 4) or 1.0 for _, std in moments),
    )


def sums_of(images: ndarray) -> tuple[PixelSums, ...]:
    """Add up each channel's pixels and their squares: exact integers."""
    counts = (_histogram(images[..., at]) for at in range(images.shape[-1]))
    return tuple(
        PixelSums(
            sum(each),
            sum(value * count for value, count in enumerate(each)),
            sum(value**2 * count for value, count in enumerate(each)),
        )
        for each in counts
    )


def chosen_seed(seed: int | None) -> int:
    """Return the seed that was asked for, or one from the operating system."""
    return secrets.randbits(_SEED_BITS) if seed is None else seed


def first_model(architecture: Architecture, asked: int | None, seed: int) -> ConvMixer:
    """Draw the first weights; the embedding's from a seed only if one was asked for."""
    model = initialise(architecture, seed)
    if asked is None:
        draw_embedding(model, os.urandom)
    return model


def draw_embedding(model: ConvMixer, entropy: Callable[[int], bytes]) -> None:
    """Draw the patch embedding anew: uniform in +-1/sqrt(fan in), as torch does.

    torch's own generator has 32 bits of seed, which is no secret.
    """
    weight = model.embedding.weight
    bound = 1 / math.sqrt(weight[0].numel())
    raw = torch.frombuffer(bytearray(entropy(4 * weight.numel())), dtype=torch.int32)
    with torch.no_grad():
        weight.copy_((raw.double() / 2**31 * bound).reshape(weight.shape))


class _Curve:
    """Gathers the losses of the steps into one point an epoch."""

    def __init__(
        self, on_step: Callable[[Progress], None], on_epoch: Callable[[Epoch], None]
    ) -> None:
        self.epochs: list[Epoch] = []
        self._losses: list[float] = []
        self._on_step, self._on_epoch = on_step, on_epoch
        self._started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._losses.append(progress.loss)
        self._on_step(progress)
        if progress.accuracy is None:
            return
        loss = sum(self._losses) / len(self._losses)
        seconds = round(time.monotonic() - self._started, 3)
        self.epochs.append(Epoch(progress.epoch, loss, progress.accuracy, seconds))
        self._losses.clear()
        self._on_epoch(self.epochs[-1])


def _architecture(plan: Plan, dataset: Dataset) -> Architecture:
    _, height, width, channels = dataset.images.shape
    return Architecture(
        hidden=plan.hidden,
        depth=plan.depth,
        kernel_size=plan.kernel_size,
        patch_size=plan.patch_size,
        channels=channels,
        height=height,
        width=width,
        classes=len(dataset.classes),
    )


def _shield(
    plan: Plan, training: Dataset, preprocessing: Preprocessing
) -> Shield | None:
    """What is asked for, made for the training set."""
    asked = plan.shield.kind == "highpass"
    moments = moments_of(training.images, plan.patch_size) if asked else None
    return plan.shield.make(preprocessing, plan.patch_size, moments)


def _lineage(plan: Plan, training: Dataset, test: Dataset) -> dict[str, Any]:
    recipe = asdict(plan.recipe)
    del recipe["seed"]
    return {
        "code": code_version(),
        "data": {
            "name": training.name,
            "train_digest": training.digest,
            "test_digest": test.digest,
        },
        "recipe": recipe,
        "seed": FROM_THE_SYSTEM if plan.seed is None else plan.seed,
        "parent": None,
    }


def code_version() -> str:
    """Name what trained: keymixer and torch, each with its version."""
    return f"keymixer {own_version()}, torch {torch.__version__}"


def own_version() -> str:
    """Which keymixer this is."""
    try:
        return version("keymixer")
    except PackageNotFoundError:
        return "not installed"


def _histogram(channel: ndarray) -> list[int]:
    """Count the 256 values, some images at a time: NumPy widens what it counts."""
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(channel), 1000):
        counts += np.bincount(channel[start : start + 1000].reshape(-1), minlength=256)
    return [int(count) for count in counts]


def _moments(sums: PixelSums) -> tuple[float, float]:
    """Mean and deviation on the scale 0..1, from exact sums over values 0..255."""
    mean, square = sums.values / sums.pixels, sums.squares / sums.pixels
    return mean / 255, math.sqrt(max(0.0, square - mean**2)) / 255

"""Train a ConvMixer on a dataset, from weights that nobody else can draw."""

import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise
from core.datasets import Dataset
from core.datasets.source import dataset
from core.errors import ConfigurationError, DataError
from core.preprocessing import Preprocessing, normalise
from core.principal import moments_of
from core.shield import Shield, ShieldPlan, shielded
from core.shielding import Shielding
from core.training import (
    Examples,
    Progress,
    Recipe,
    Snapshot,
    Unseen,
    fit,
    require_every_class,
)
from parties.model_provider.place import Place
from parties.model_provider.release import Epoch, kept_epoch

FROM_THE_SYSTEM = "drawn from the operating system"
_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train: a name, a shape, a recipe, and the seed if it is to be known.

    The trained embedding is as secret as a key. Without a seed its first weights come
    from the operating system. With one, whoever knows the seed and the data can train
    the same embedding again: for experiments only.

    `validation` is the share of the training images that are held out to decide by when
    the recipe is to stop early; what they are is drawn from the seed.
    """

    name: str
    hidden: int = 128
    depth: int = 4
    kernel_size: int = 5
    patch_size: int = 4
    recipe: Recipe = field(default_factory=Recipe)
    seed: int | None = None
    validation: float = 0.0
    # Train though a class has no image, and will never be an answer.
    allow_empty: bool = False
    # What pictures are fitted to, as `core.datasets` reads it; empty: their own size.
    image_size: str = ""
    # What a picture's shorter side is scaled to before its centre is cut out; 0: to
    # what just covers it.
    resize: int = 0
    # What owners apply before the key.
    shield: ShieldPlan = field(default_factory=ShieldPlan)

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ConfigurationError("validation: expected a share from 0 to below 1")
        if self.recipe.patience and not self.validation:
            raise ConfigurationError("validation: to stop early takes a share above 0")


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
        """Accuracy on the test split, 0..1, with the weights that were kept."""
        return kept_epoch(self.curve).accuracy

    @property
    def metrics(self) -> dict[str, float]:
        """What the manifest says of how good it is."""
        kept = kept_epoch(self.curve)
        found = {"test_accuracy": kept.accuracy, "validation_accuracy": kept.validation}
        return {name: value for name, value in found.items() if value is not None}


def train(
    data: tuple[Dataset, Dataset],
    plan: Plan,
    on_step: Callable[[Progress], None],
    on_epoch: Callable[[Epoch], None],
    place: Place | None = None,
) -> Trained:
    """Train on the first dataset and evaluate on the second after every epoch.

    With a `place`, what is needed to go on is kept in it after every epoch, and a
    training that stands there goes on: it ends with the weights it would have had.

    Raises:
        DataError: a class without a training image, or images that cannot be learned.
        TrainingChangedError: what stands in the place had another plan or other images.
    """
    training, test = data
    _require_learnable(training, allow_empty=plan.allow_empty)
    seed, kept = _begun(place, data, plan)
    found = preprocessing_of(training.images)
    preprocessing = replace(found, resize=plan.resize or None)
    shield = _shield(plan, training, preprocessing)
    architecture = shielded(_architecture(plan, training), shield)
    model = first_model(architecture, plan.seed, seed)
    ready = partial(_examples, preprocessing=preprocessing, shield=shield)
    learned, held_out = hold_out(training, plan.validation, seed)
    curve = _Curve(on_step, on_epoch, kept.curve if kept else ())
    fit(
        model,
        ready(learned),
        Unseen(ready(test), ready(held_out) if held_out else None),
        replace(plan.recipe, seed=seed),
        curve,
        keep=None if place is None else _Keeper(place, curve),
        stood=kept.snapshot if kept else None,
    )
    return Trained(
        name=plan.name,
        model=model,
        preprocessing=preprocessing,
        classes=training.classes,
        curve=tuple(curve.epochs),
        lineage=_lineage(plan, data, held_out),
        shield=shield,
    )


def hold_out(
    training: Dataset, share: float, seed: int
) -> tuple[Dataset, Dataset | None]:
    """Part the images to learn from and those to decide by; the seed says which."""
    count = round(share * len(training))
    if not count:
        return training, None
    order = np.random.default_rng([seed, count]).permutation(len(training))
    return _part(training, order[count:]), _part(training, order[:count])


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
        self,
        on_step: Callable[[Progress], None],
        on_epoch: Callable[[Epoch], None],
        before: Sequence[Epoch] = (),
    ) -> None:
        self.epochs = list(before)
        self._losses: list[float] = []
        self._on_step, self._on_epoch = on_step, on_epoch
        earlier = before[-1].seconds if before else 0.0
        self._started = time.monotonic() - earlier
        self._earlier_cpu = before[-1].cpu_seconds if before else 0.0
        self._work = _Work()

    def __call__(self, progress: Progress) -> None:
        self._losses.append(progress.loss)
        self._work.step_done(evaluated=progress.accuracy is not None)
        self._on_step(progress)
        if progress.accuracy is None:
            return
        self.epochs.append(
            Epoch(
                progress.epoch,
                sum(self._losses) / len(self._losses),
                progress.accuracy,
                round(time.monotonic() - self._started, 3),
                progress.validation,
                progress.kept,
                round(self._earlier_cpu + self._work.seconds, 3),
            )
        )
        self._losses.clear()
        self._on_epoch(self.epochs[-1])


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Keeps a training in its place, with the curve so far."""

    place: Place
    curve: _Curve

    def __call__(self, snapshot: Snapshot) -> None:
        told = {
            "epoch": snapshot.epoch,
            "numbers": snapshot.numbers,
            "curve": [asdict(point) for point in self.curve.epochs],
        }
        self.place.keep(f"epoch-{snapshot.epoch:04}", snapshot.tensors, told)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where a training stood, and its curve until then."""

    snapshot: Snapshot
    curve: tuple[Epoch, ...]


def _begun(
    place: Place | None, data: tuple[Dataset, Dataset], plan: Plan
) -> tuple[int, _Kept | None]:
    """The seed of a training, and where it stood if it was begun before."""
    drawn = chosen_seed(plan.seed)
    if place is None:
        return drawn, None
    asked = {**asdict(plan), "data": [part.digest for part in data]}
    seed = place.begin(asked, drawn)
    if (found := place.kept()) is None:
        return seed, None
    tensors, told = found
    snapshot = Snapshot(told["epoch"], tensors, told["numbers"])
    return seed, _Kept(snapshot, tuple(Epoch(**point) for point in told["curve"]))


def _require_learnable(training: Dataset, *, allow_empty: bool) -> None:
    if not len(training):
        raise DataError(f"{training.name}: no image to train on")
    counts = np.bincount(training.labels, minlength=len(training.classes))
    if not allow_empty:
        require_every_class(counts.tolist(), training.classes)


def _examples(
    part: Dataset, *, preprocessing: Preprocessing, shield: Shield | None
) -> Examples:
    front = None if shield is None else Shielding.of(shield)
    return Examples(normalise(part.images, preprocessing), part.labels.copy(), front)


def _part(whole: Dataset, rows: ndarray) -> Dataset:
    rows = np.sort(rows)
    return dataset(whole.name, whole.images[rows], whole.labels[rows], whole.classes)


class _Work:
    """Processor seconds of the steps so far, without those of evaluating.

    An epoch's last step is told of after the evaluation; it is taken to have cost what
    the steps before it did on average.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._steps = 0
        self._since = time.process_time()

    def step_done(self, *, evaluated: bool) -> None:
        now = time.process_time()
        alone = evaluated and self._steps > 0
        self.seconds += self.seconds / self._steps if alone else now - self._since
        self._steps += 1
        self._since = now


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


def _lineage(
    plan: Plan, data: tuple[Dataset, Dataset], held_out: Dataset | None
) -> dict[str, Any]:
    training, test = data
    recipe = asdict(plan.recipe)
    del recipe["seed"]
    held = {"held_out_digest": held_out.digest} if held_out else {}
    return {
        "code": code_version(),
        "data": {
            "name": training.name,
            "train_digest": training.digest,
            "test_digest": test.digest,
            **held,
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

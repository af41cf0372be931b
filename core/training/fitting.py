"""Train from the first step to the last, or from where a training stood."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator

from core.convmixer import ConvMixer
from core.errors import ConfigurationError, DataError
from core.training.evaluation import evaluate
from core.training.examples import Examples, require_fit
from core.training.recipe import Recipe
from core.training.steps import (
    Optimisation,
    OptimiserName,
    Penalty,
    convert_kernels,
    steps_per_epoch,
    train_epoch,
)
from core.training.under_way import Snapshot, UnderWay


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step; an epoch's last has accuracies, 0..1.

    The model ends with the weights of the last epoch that is `kept`.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float | None
    seconds_left: float
    validation: float | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """Images that no step is made from.

    `test` images tell how good the model is; only `validation` images may decide
    anything. Without the latter, the last epoch's weights are kept.
    """

    test: Examples | None = None
    validation: Examples | None = None


def fit(
    model: ConvMixer,
    train: Examples,
    unseen: Unseen | Examples | None,
    recipe: Recipe,
    on_progress: Callable[[Progress], None] = lambda _: None,
    *,
    keep: Callable[[Snapshot], None] | None = None,
    stood: Snapshot | None = None,
) -> tuple[Progress, ...]:
    """Train in place and return the last progress of each epoch: the training curve.

    With the same weights, images, recipe and number of threads, the result is the same,
    also if it was ended and goes on from a snapshot.

    Args:
        unseen: What it is evaluated on after every epoch; examples are test images.
        keep: Is given a copy of everything before the first step, and after each epoch.
        stood: Where to go on from; the curve begins after it.
    """
    others = unseen if isinstance(unseen, Unseen) else Unseen(unseen)
    _require_usable(model, train, others, recipe)
    fitting = _Fitting(train, others, recipe, on_progress, keep)
    fitting.run(model, stood)
    return tuple(fitting.curve)


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
    _require_usable(model, train, Unseen(), recipe)
    optimisation = Optimisation.steady(model, recipe, optimiser)
    generator = Generator().manual_seed(recipe.seed)
    convert_kernels(model)
    losses = tuple(
        loss
        for _ in range(recipe.epochs)
        for loss in train_epoch(
            model, train, recipe, optimisation, generator, penalty=penalty
        )
    )
    model.eval()
    return losses


class _Fitting:
    """The epochs of one training, in order."""

    def __init__(
        self,
        train: Examples,
        unseen: Unseen,
        recipe: Recipe,
        on_progress: Callable[[Progress], None],
        keep: Callable[[Snapshot], None] | None,
    ) -> None:
        self.curve: list[Progress] = []
        self._train, self._unseen, self._recipe = train, unseen, recipe
        self._on_progress, self._keep = on_progress, keep
        self._each = steps_per_epoch(len(train), recipe.batch)
        self._steps = recipe.epochs * self._each
        self._started = time.monotonic()
        self._first = 0

    def run(self, model: ConvMixer, stood: Snapshot | None) -> None:
        way = UnderWay.begin(model, self._recipe, self._steps)
        if stood is not None:
            way.restore(stood)
        elif self._keep is not None:
            self._keep(way.snapshot())
        self._first = way.epoch * self._each
        while way.epoch < self._recipe.epochs and not way.exhausted:
            self._epoch(way)
        way.end()

    def _epoch(self, way: UnderWay) -> None:
        losses = train_epoch(
            way.model, self._train, self._recipe, way.optimisation, way.generator
        )
        at = way.epoch * self._each
        for step, loss in enumerate(losses, at + 1):
            way.stepped()
            if step < at + self._each:
                self._on_progress(self._progress(way.epoch + 1, step, loss))
        self._end_epoch(way, loss)

    def _end_epoch(self, way: UnderWay, loss: float) -> None:
        accuracy, validation = (
            None if part is None else evaluate(way.answering, part)
            for part in (self._unseen.test, self._unseen.validation)
        )
        kept = way.judge(validation)
        step = way.epoch * self._each
        progress = self._progress(
            way.epoch,
            step,
            loss,
            accuracy=accuracy,
            validation=validation,
            kept=kept,
            ended=way.exhausted,
        )
        self.curve.append(progress)
        self._on_progress(progress)
        if self._keep is not None:
            self._keep(way.snapshot())

    def _progress(
        self,
        epoch: int,
        step: int,
        loss: float,
        *,
        accuracy: float | None = None,
        validation: float | None = None,
        kept: bool = False,
        ended: bool = False,
    ) -> Progress:
        each_s = (time.monotonic() - self._started) / (step - self._first)
        left_s = 0.0 if ended else each_s * (self._steps - step)
        return Progress(
            epoch, step, self._steps, loss, accuracy, left_s, validation, kept
        )


def _require_usable(
    model: ConvMixer, train: Examples, unseen: Unseen, recipe: Recipe
) -> None:
    require_fit(train, model.architecture)
    if recipe.pad >= min(train.images.shape[2:]):
        raise ConfigurationError(f"pad: expected less than the image, got {recipe.pad}")
    if recipe.patience and unseen.validation is None:
        raise DataError("to stop early needs validation images, which none are")

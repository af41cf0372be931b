"""Compare what came over the wire with what the plain model says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from core.errors import DataError

Logits = Float32[np.ndarray, "images classes"]
Labels = Int64[np.ndarray, "images"]


@dataclass(frozen=True)
class Answers:
    """Logits for some images, and the images' true labels."""

    logits: Logits
    labels: Labels

    @property
    def accuracy(self) -> float:
        """Share of images whose top class is the true one, 0..1."""
        return float(np.mean(self.logits.argmax(axis=1) == self.labels))


def read_answers(path: Path) -> Answers:
    """Read an `.npz` with `logits` and `labels`.

    Raises:
        DataError: it is not there, or the two do not belong together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            answers = Answers(file["logits"], file["labels"])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} holds no answers: {error}") from error
    if len(answers.logits) != len(answers.labels):
        raise DataError(f"{path}: {len(answers.logits)} answers, not one a label")
    return answers


def together(parts: Sequence[Answers]) -> Answers:
    """The owners' answers, in the order in which the images were dealt."""
    return Answers(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def top1_agreement(plain: Answers, keyed: Answers) -> float:
    """Share of images for which both name the same class, 0..1."""
    _same_images(plain, keyed)
    return float(np.mean(plain.logits.argmax(axis=1) == keyed.logits.argmax(axis=1)))


def max_logit_difference(plain: Answers, keyed: Answers) -> float:
    """The largest absolute difference between two logits."""
    _same_images(plain, keyed)
    return float(np.abs(plain.logits - keyed.logits).max())


def _same_images(plain: Answers, keyed: Answers) -> None:
    if not np.array_equal(plain.labels, keyed.labels):
        raise DataError("the two sets of answers are not for the same images")

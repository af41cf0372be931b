"""Agreement and difference, against figures worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from orchestrator.simulation.measure import (
    Answers,
    max_logit_difference,
    read_answers,
    together,
    top1_agreement,
)


def _answers(logits: list[list[float]], labels: list[int]) -> Answers:
    return Answers(np.array(logits, np.float32), np.array(labels, np.int64))


PLAIN = _answers([[1, 0], [0, 1], [1, 0], [0, 1]], [0, 1, 1, 1])
KEYED = _answers([[1, 0], [0, 1], [1, 0], [0.75, 0.5]], [0, 1, 1, 1])


def test_accuracy_counts_the_true_classes() -> None:
    assert PLAIN.accuracy == 0.75
    assert KEYED.accuracy == 0.5


def test_agreement_counts_equal_top_classes() -> None:
    assert top1_agreement(PLAIN, KEYED) == 0.75


def test_the_largest_difference_is_found() -> None:
    assert max_logit_difference(PLAIN, KEYED) == 0.75


def test_answers_for_other_images_are_not_compared() -> None:
    """Shuffled parts would otherwise look like a wrong model."""
    other = _answers([[1, 0]] * 4, [1, 1, 1, 1])

    for compare in (top1_agreement, max_logit_difference):
        with pytest.raises(DataError, match="same images"):
            compare(PLAIN, other)


def test_the_owners_answers_are_put_together_in_order() -> None:
    whole = together([PLAIN, KEYED])

    other = _answers([[0, 1]], [7])
    labels = together([other, PLAIN]).labels.tolist()

    assert np.array_equal(whole.logits[4:], KEYED.logits)
    assert labels == [7, 0, 1, 1, 1]


def test_a_file_without_answers_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "answers.npz"
    broken.write_bytes(b"not a zip")

    with pytest.raises(DataError, match="holds no answers"):
        read_answers(broken)
    with pytest.raises(DataError, match="holds no answers"):
        read_answers(tmp_path / "missing.npz")

"""Medians and spreads of repeated measurements."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some measurements, and how far they lie apart."""

    median: float
    least: float
    most: float

    @property
    def relative(self) -> float:
        """The width of all measurements, as a part of the median."""
        return (self.most - self.least) / self.median if self.median else 0.0


def spread(measured: Sequence[float]) -> Spread:
    """Sum up what was measured.

    Raises:
        InvalidInput: nothing was.
    """
    if not measured:
        raise InvalidInput("there is no measurement to sum up")
    return Spread(statistics.median(measured), min(measured), max(measured))


def percentile(ascending: Sequence[float], part: float) -> float:
    """The smallest of some sorted numbers that `part` of them do not exceed; else 0."""
    if not ascending:
        return 0.0
    rank = -int(-part * len(ascending) // 1)
    return ascending[max(rank, 1) - 1]

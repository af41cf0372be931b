"""What owners wrote down of their requests: `traffic-N.ndjson`, one line a request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from core.errors import DataError
from orchestrator.simulation.measure import Logits

ANSWERED: Final = "answered"
REFUSED: Final = "refused"
FAILED: Final = "failed"
_OUTCOMES: Final = frozenset({ANSWERED, REFUSED, FAILED})


@dataclass(frozen=True, slots=True)
class Released:
    """Where the log is said to have recorded an answer."""

    audit_index: int
    request_id: str
    key_version: int
    model_version: int


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request as its owner saw it; times in milliseconds since the epoch."""

    started_ms: float
    ended_ms: float
    outcome: str
    kind: str
    # How many requests went over the wire for it.
    sent: int
    # The owner's images it was about: `images` of them from number `first` on.
    first: int
    images: int
    # The versions that answered; 0: none did.
    key_version: int
    model_version: int
    released: tuple[Released, ...]
    logits: Logits

    @property
    def milliseconds(self) -> float:
        """How long it took, retries included."""
        return self.ended_ms - self.started_ms

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read one line's content, or raise `TypeError`, `KeyError` or `ValueError`."""
        if content["outcome"] not in _OUTCOMES:
            raise ValueError("expected an outcome")
        released = tuple(Released(**each) for each in content.pop("released"))
        logits = np.array(content.pop("logits"), np.float32)
        return cls(**content, released=released, logits=logits)


def read_requests(path: Path) -> list[Request]:
    """Read an owner's file.

    Raises:
        DataError: it is not there, or a line is none of ours; the message names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return [_read(path, number, line) for number, line in enumerate(lines, 1)]


def overlapping(
    requests: Sequence[Request], begin_ms: float, end_ms: float
) -> list[Request]:
    """The requests of which some part was between the two moments."""
    return [
        request
        for request in requests
        if request.started_ms <= end_ms and request.ended_ms >= begin_ms
    ]


def _read(path: Path, number: int, line: str) -> Request:
    try:
        return Request.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}, line {number}: {error}") from error

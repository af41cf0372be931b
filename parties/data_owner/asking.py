"""Ask about many images, and keep count of what came back."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from core.errors import KeymixerError
from parties.data_owner.answers import Answers
from parties.data_owner.errors import IncompleteError
from parties.data_owner.inference import Pixels

Ask = Callable[[Pixels], Answers]

# After a failed request, so that a party in trouble is not hammered.
_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class Span:
    """A run of requests that one key version answered; times since the start."""

    key_version: int
    requests: int
    first_s: float
    last_s: float


@dataclass(slots=True)
class Tally:
    """What came back so far."""

    logits: Float32[ndarray, "n classes"] | None = field(default=None, repr=False)
    answered: Bool[ndarray, " n"] = field(default_factory=lambda: np.zeros(0, bool))
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    spans: list[Span] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time since the first request."""
        return round(time.monotonic() - self.started, 3)

    @property
    def version(self) -> int:
        """The newest key version that has answered; 0 before the first answer."""
        return max((span.key_version for span in self.spans), default=0)

    def facts(self) -> dict[str, Any]:
        """Give the counts, for an event or a report."""
        return {
            "images": int(self.answered.sum()),
            "requests": self.requests,
            "failed": self.failures.total(),
            "failures": dict(self.failures),
            "versions": [
                {
                    "key_version": span.key_version,
                    "requests": span.requests,
                    "first_s": span.first_s,
                    "last_s": span.last_s,
                }
                for span in self.spans
            ],
            "seconds": self.seconds,
        }


def ask_about(
    images: Pixels, batch: int, ask: Ask, on_progress: Callable[[Tally], None]
) -> Tally:
    """Ask about all images once, `batch` at a time.

    A request that fails is counted by kind. Raises `IncompleteError` when an image has
    no answer in the end.
    """
    tally = Tally(answered=np.zeros(len(images), dtype=bool))
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        try:
            _note(tally, rows, ask(images[rows]))
        except KeymixerError as error:
            tally.requests += 1
            tally.failures[error.kind] += 1
            time.sleep(_PAUSE_S)
        on_progress(tally)
    if not tally.answered.all():
        missing, failed = int((~tally.answered).sum()), dict(tally.failures)
        raise IncompleteError(f"{missing} images got no answer; failures: {failed}")
    return tally


def _note(tally: Tally, rows: slice, answers: Answers) -> None:
    if tally.logits is None:
        shape = (len(tally.answered), answers.logits.shape[1])
        tally.logits = np.full(shape, np.nan, dtype=np.float32)
    tally.logits[rows] = answers.logits
    tally.answered[rows] = True
    tally.requests += len(answers.receipts)
    for receipt in answers.receipts:
        version = receipt.key_version
        if not tally.spans or tally.spans[-1].key_version != version:
            tally.spans.append(Span(version, 0, tally.seconds, tally.seconds))
        tally.spans[-1].requests += 1
        tally.spans[-1].last_s = tally.seconds

"""Ask about many images for a while, and keep count of what came back."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
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


@dataclass(frozen=True, slots=True)
class Until:
    """When to stop: after one pass over the images, unless one of these says later.

    `seconds` and `requests` bound the whole; `version` goes on until a key version at
    least as new has answered, but not for longer than `give_up_s`.
    """

    seconds: float | None = None
    requests: int | None = None
    version: int | None = None
    give_up_s: float = 180.0


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


def ask_until(
    images: Pixels,
    batch: int,
    until: Until,
    ask: Ask,
    on_progress: Callable[[Tally], None],
) -> Tally:
    """Ask about all images, and again as long as `until` says.

    A request that fails is counted by kind and its images are asked about again in the
    next pass. Raises `IncompleteError` when an image has no answer in the end.
    """
    tally = Tally(answered=np.zeros(len(images), dtype=bool))
    for rows in _passes(len(images), batch):
        try:
            _note(tally, rows, ask(images[rows]))
        except KeymixerError as error:
            tally.requests += 1
            tally.failures[error.kind] += 1
            time.sleep(_PAUSE_S)
        on_progress(tally)
        if _is_over(tally, until, last_of_pass=rows.stop >= len(images)):
            break
    _require_complete(tally, until)
    return tally


def _passes(count: int, batch: int) -> Iterator[slice]:
    while True:
        for start in range(0, count, batch):
            yield slice(start, start + batch)


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


def _require_complete(tally: Tally, until: Until) -> None:
    failed = dict(tally.failures)
    if until.version is not None and tally.version < until.version:
        raise IncompleteError(
            f"key version {until.version} did not answer in {tally.seconds} s;"
            f" failures: {failed}"
        )
    if until.requests is None and until.seconds is None and not tally.answered.all():
        missing = int((~tally.answered).sum())
        raise IncompleteError(f"{missing} images got no answer; failures: {failed}")


def _is_over(tally: Tally, until: Until, *, last_of_pass: bool) -> bool:
    if until.requests is not None:
        return tally.requests >= until.requests
    if until.seconds is not None:
        return tally.seconds >= until.seconds
    if until.version is not None:
        answered = tally.version >= until.version and bool(tally.answered.all())
        return answered or tally.seconds >= until.give_up_s
    return last_of_pass

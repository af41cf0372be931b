"""Ask without pause until told to stop, and write down what became of each request.

Every line is one request of a person's program, with the retries that the client made
of its own accord: a request that a new key version answered was not refused.
"""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Final, Literal

from core.errors import BudgetSpent, KeymixerError
from core.rpc.errors import RemoteRefusedError
from parties.data_owner.answers import Answers, Receipt
from parties.data_owner.errors import NoKeyError
from parties.data_owner.inference import Pixels

Outcome = Literal["answered", "refused", "failed"]
Clock = Callable[[], float]

# After a request without an answer, so that nobody is hammered.
PAUSE_S: Final = 0.05
# Float32 logits are compared to a thousandth: six decimals are more than enough.
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Released:
    """Where the audit log recorded one answer."""

    audit_index: int
    request_id: str
    key_version: int
    model_version: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; times are milliseconds since the epoch, by the wall clock.

    `refused`: somebody said no. `failed`: nobody said anything of use. `first` is the
    first of the `images` in the owner's file that it was about; `sent` counts the
    requests that went over the wire for it; `key_version` and `model_version` are the
    versions that answered, 0 if none did.
    """

    started_ms: float
    ended_ms: float
    outcome: Outcome
    kind: str
    sent: int
    first: int
    images: int
    key_version: int = 0
    model_version: int = 0
    released: tuple[Released, ...] = ()
    logits: tuple[tuple[float, ...], ...] = ()

    def line(self) -> str:
        """Give the line of JSON that it is written down as."""
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True, slots=True)
class Asker:
    """What a request is made with: the client's two ends, and the clock on the wall."""

    predict: Callable[[Pixels], Answers]
    # How many requests the client has sent so far.
    sent: Callable[[], int]
    clock: Clock = time.time
    pause: Callable[[float], None] = time.sleep

    def ask(self, images: Pixels, first: int) -> Asked:
        """Ask once about `images`, of which `first` is the number of the first."""
        before, started = self.sent(), self._now_ms()
        outcome: Outcome = "answered"
        kind, answers = "", None
        try:
            answers = self.predict(images)
        except KeymixerError as error:
            outcome, kind = _outcome(error), error.kind
        asked = Asked(
            started_ms=started,
            ended_ms=self._now_ms(),
            outcome=outcome,
            kind=kind,
            sent=self.sent() - before,
            first=first,
            images=len(images),
            **({} if answers is None else _answered(answers)),
        )
        if answers is None:
            self.pause(PAUSE_S)
        return asked

    def _now_ms(self) -> float:
        return round(self.clock() * 1000, 2)


@dataclass(slots=True)
class Log:
    """Writes every request down, and keeps count for whoever follows."""

    file: IO[str]
    counts: Counter[str] = field(default_factory=Counter)
    # Answers by the version of the model that gave them.
    models: Counter[int] = field(default_factory=Counter)
    key_version: int = 0

    def write(self, asked: Asked) -> None:
        """Write one line; it is with the operating system when this returns."""
        self.file.write(asked.line())
        self.file.flush()
        self.counts[asked.outcome] += 1
        if asked.model_version:
            self.models[asked.model_version] += 1
        self.key_version = asked.key_version or self.key_version

    def facts(self) -> dict[str, Any]:
        """Give the counts, for an event."""
        outcomes = ("answered", "refused", "failed")
        return {
            "requests": self.counts.total(),
            **{outcome: self.counts[outcome] for outcome in outcomes},
            "key_version": self.key_version,
            "model_versions": {str(version): n for version, n in self.models.items()},
        }


@contextmanager
def until_told(requests: int | None) -> Iterator[Callable[[int], bool]]:
    """Give the end of `keep_asking`: SIGTERM, or a number of requests if there is one.

    A request that is on its way when the signal arrives is awaited and written down.
    """
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield (
            lambda asked: told.is_set() or (requests is not None and asked >= requests)
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def keep_asking(
    images: Pixels, batch: int, asker: Asker, over: Callable[[int], bool]
) -> Iterator[Asked]:
    """Ask about all images, `batch` at a time, again and again.

    Args:
        images: the owner's own.
        batch: images a request.
        asker: what asks.
        over: told how many requests were made; the next one is made unless it is true.
    """
    asked = 0
    while not over(asked):
        first = asked * batch % len(images)
        yield asker.ask(images[first : first + batch], first)
        asked += 1


def _outcome(error: KeymixerError) -> Outcome:
    """A party that says no, or a registry that lists no key, is a refusal."""
    refusal = isinstance(error, RemoteRefusedError | NoKeyError | BudgetSpent)
    return "refused" if refusal else "failed"


def _released(receipt: Receipt) -> Released:
    return Released(
        receipt.audit_index,
        receipt.request_id,
        receipt.key_version,
        receipt.model_version,
    )


def _answered(answers: Answers) -> dict[str, Any]:
    return {
        "key_version": answers.receipts[-1].key_version,
        "model_version": answers.receipts[-1].model_version,
        "released": tuple(map(_released, answers.receipts)),
        "logits": tuple(
            tuple(round(float(logit), _DECIMALS) for logit in row)
            for row in answers.logits
        ),
    }

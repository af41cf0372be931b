"""Callers in closed loop, in a process of their own.

`python -m orchestrator.bench.load` reads a load as JSON. A line says that measuring
begins, so that whoever started this reads the server's processor time at the same
moment; the second and last line holds the figures.
"""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from core.errors import PeerUnavailable
from orchestrator.bench.connections import Connection, Target, connect
from orchestrator.bench.forms import FORMS
from orchestrator.bench.questions import Question, read_questions
from orchestrator.bench.statistics import percentile

# A server that refuses is not asked again at once: that would measure refusals alone.
_PAUSE_S: Final = 0.05
_MEASURING: Final = {"event": "measuring"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Whom to ask what; `questions` is a file that `write_questions` wrote."""

    target: Target
    questions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of whom: each caller has one request under way at a time.

    Args:
        ways: dealt out to the callers; who has several takes them in turn.
        warm_s: for how long requests are made before they count.
    """

    ways: tuple[Way, ...]
    callers: int = 32
    seconds: float = 5.0
    warm_s: float = 1.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        entries = json.loads(text)
        ways = tuple(map(_way, entries.pop("ways")))
        return cls(ways=ways, **entries)

    def of(self, caller: int) -> tuple[Way, ...]:
        """The ways of one caller; there is one for each, if need be shared."""
        return self.ways[caller :: self.callers] or (
            self.ways[caller % len(self.ways)],
        )


def _way(entries: dict[str, Any]) -> Way:
    target = Target.from_dict(entries["target"])
    return Way(target=target, questions=entries["questions"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the callers saw of the answers that came while it counted.

    `wrong` are answers of another class than the plain model's; an answer that never
    came, or was a refusal, is an error, and `told` is what the first of them said.
    """

    images: int
    seconds: float
    images_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    wrong: int
    told: str
    cpu_s: float


async def measure(load: Load) -> Figures:
    """Ask for the given time and say what was seen."""
    # Many ways may have the same questions.
    files = {way.questions: read_questions(Path(way.questions)) for way in load.ways}
    began = time.perf_counter() + load.warm_s
    seen = _Seen(began, began + load.seconds)
    callers = [
        asyncio.create_task(
            _call([_Line(w, files, caller) for w in load.of(caller)], seen)
        )
        for caller in range(load.callers)
    ]
    await asyncio.sleep(load.warm_s)
    _say(_MEASURING)
    cpu = time.process_time()
    await asyncio.sleep(seen.until - time.perf_counter())
    figures = seen.figures(load.seconds, time.process_time() - cpu)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    return figures


def main() -> None:
    """Read a load, put it on the server, and print what was seen."""
    _say(asdict(asyncio.run(measure(Load.from_json(sys.stdin.read())))))


@dataclass(slots=True)
class _Seen:
    """What has been seen between two moments."""

    since: float
    until: float
    waits: list[float] = field(default_factory=list)
    images: int = 0
    errors: int = 0
    wrong: int = 0
    told: str = ""

    def answer(self, began: float, ended: float, images: int, wrong: int) -> None:
        if self.since <= ended < self.until:
            self.waits.append(ended - began)
            self.images += images
            self.wrong += wrong

    def error(self, error: PeerUnavailable) -> None:
        if self.since <= time.perf_counter() < self.until:
            self.errors += 1
            self.told = self.told or str(error)[:300]

    def figures(self, seconds: float, cpu_s: float) -> Figures:
        waits = sorted(self.waits)
        return Figures(
            images=self.images,
            seconds=seconds,
            images_per_s=self.images / seconds,
            p50_ms=1000 * percentile(waits, 0.5),
            p99_ms=1000 * percentile(waits, 0.99),
            errors=self.errors,
            wrong=self.wrong,
            told=self.told,
            cpu_s=cpu_s,
        )


async def _call(lines: Sequence["_Line"], seen: _Seen) -> None:
    """One caller: it goes on until it is cancelled."""
    try:
        for line in itertools.cycle(lines):
            try:
                await line.ask(seen)
            except PeerUnavailable as error:
                seen.error(error)
                await line.close()
                await asyncio.sleep(_PAUSE_S)
    finally:
        for line in lines:
            await line.close()


class _Line:
    """A way with a connection, which is made anew if it breaks."""

    def __init__(
        self, way: Way, files: Mapping[str, Sequence[Question]], caller: int
    ) -> None:
        self._target = way.target
        self._questions = _from(files[way.questions], caller)
        self._form = FORMS[way.target.form]
        self._connection: Connection | None = None

    async def ask(self, seen: _Seen) -> None:
        if self._connection is None:
            self._connection = await connect(self._target)
        question = next(self._questions)
        body = self._form.anew(question.body)
        began = time.perf_counter()
        answer = await self._connection.ask(body)
        ended = time.perf_counter()
        wrong = _wrong(self._form.read, answer, question.classes)
        seen.answer(began, ended, len(question.classes), wrong)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def _wrong(read: Any, answer: bytes, classes: Sequence[int]) -> int:
    """How many images were given another class; all of them if it is no answer."""
    with contextlib.suppress(ValueError, IndexError):
        found = read(answer, len(classes)).argmax(1)
        return int(np.count_nonzero(found != classes))
    return len(classes)


def _from(questions: Sequence[Question], caller: int) -> Iterator[Question]:
    """All questions, over and over; each caller begins with another one."""
    return itertools.islice(itertools.cycle(questions), caller % len(questions), None)


def _say(entries: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(entries) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

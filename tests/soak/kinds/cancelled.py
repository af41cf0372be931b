"""Owners that change their mind: calls that are cancelled at any moment."""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from core.rpc.errors import remote_errors
from parties.data_owner.answers import Receipt
from tests.soak.site import DEADLINE_S, Line, Question, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, ended

_SOON_S = 0.05


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Some of them are answered before."""

    name: str = "cancelled"
    callers: int = 3
    pause_s: float = 0.02
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED, "Cancelled"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.calm[caller % len(site.calm)]) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    question = connected.owner.question(random.choice((1, 8, 64)))
    asked = connected.stub.ModelInfer.future(question.request, timeout=DEADLINE_S)
    time.sleep(random.uniform(0, _SOON_S))
    asked.cancel()
    try:
        return [ended(lambda: _answer(connected, question, asked))]
    except grpc.FutureCancelledError:
        return [Ending("Cancelled")]


def _answer(connected: Line, question: Question, asked: Any) -> Receipt:
    with remote_errors("inference server"):
        answer = asked.result()
    return connected.read(question, answer)

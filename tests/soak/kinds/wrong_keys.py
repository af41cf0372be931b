"""Owners that ask with another's key, with one that nobody has, or with none."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from protos import open_inference_pb2 as pb
from tests.soak.site import DEADLINE_S, Line, Owner, Question, Site, line
from tests.soak.traffic import Ending, Turn, ended


@dataclass(frozen=True, slots=True)
class WrongKeys:
    """Each is refused, by its own kind."""

    name: str = "wrong keys"
    callers: int = 2
    pause_s: float = 0.1
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({"NotAllowed", "KeyRefused", "NotFound"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        first, second, *_ = site.calm
        with line(site, first) as connected:
            yield lambda: [*_turn(connected, second)]


def _turn(connected: Line, other: Owner) -> Iterable[Ending]:
    for kind, change in _CHANGES.items():
        question = connected.owner.question(1)
        change(question.request, other)
        yield _as(kind, connected, question)


def _as(kind: str, connected: Line, question: Question) -> Ending:
    found = ended(lambda: connected.ask(question))
    assert kind == found.kind, f"{kind} is what it should be"
    return found


def _anothers(request: pb.ModelInferRequest, other: Owner) -> None:
    request.parameters["key_id"].string_param = other.use.key.key_id


def _nobodys(request: pb.ModelInferRequest, _other: Owner) -> None:
    request.parameters["key_id"].string_param = "nobody.measured"


def _of_no_model(request: pb.ModelInferRequest, _other: Owner) -> None:
    request.model_name = "another"


_CHANGES: dict[str, Callable[[pb.ModelInferRequest, Owner], None]] = {
    "NotAllowed": _anothers,
    "KeyRefused": _nobodys,
    "NotFound": _of_no_model,
}

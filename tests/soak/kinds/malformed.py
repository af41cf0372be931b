"""Requests whose tensors are not what they say, or not what the model reads."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.rpc.errors import remote_errors
from protos import open_inference_pb2 as pb
from tests.soak.site import DEADLINE_S, Line, Site, line
from tests.soak.traffic import Ending, Turn, ended

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Malformed:
    """Each is refused, by its own kind."""

    name: str = "malformed"
    callers: int = 2
    pause_s: float = 0.1
    within_s: float = DEADLINE_S

    @property
    def expected(self) -> frozenset[str]:
        return frozenset({*(kind for kind, _ in _CHANGES), _NO_MESSAGE, _TOO_LARGE})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.calm[caller % len(site.calm)]) as connected:
            yield lambda: [*_turn(connected)]


def _turn(connected: Line) -> Iterable[Ending]:
    for kind, change in _CHANGES:
        question = connected.owner.question(2)
        change(question.request)
        yield _as(kind, ended(lambda: connected.ask(question)))  # noqa: B023
    yield _as(_NO_MESSAGE, ended(lambda: _send(connected, b"\xff" * 50)))
    yield _as(_TOO_LARGE, ended(lambda: _send(connected, bytes((16 << 20) + 1))))


def _as(kind: str, found: Ending) -> Ending:
    assert kind == found.kind, f"{kind} is what it should be, not {found.kind}"
    return found


def _send(connected: Line, content: bytes) -> None:
    with remote_errors("inference server"):
        method = connected.channel.unary_unary(_METHOD, bytes, bytes)
        method(content, timeout=DEADLINE_S)


def _cut(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-3]


def _not_finite(request: pb.ModelInferRequest) -> None:
    numbers = np.frombuffer(request.raw_input_contents[0], "<f4").copy()
    numbers[5] = np.nan
    request.raw_input_contents[0] = numbers.tobytes()


def _of_another_shape(request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[1] += 1


def _endless(request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape[0] = 1 << 40


def _of_no_datatype(request: pb.ModelInferRequest) -> None:
    request.inputs[0].datatype = "FP64"


def _twice(request: pb.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


def _without_key(request: pb.ModelInferRequest) -> None:
    del request.parameters["key_id"]


def _of_no_version(request: pb.ModelInferRequest) -> None:
    request.model_version = "newest"


_NO_MESSAGE: Final = "UnreadableMessage"
_TOO_LARGE: Final = "TooLarge"
_CHANGES: Final[tuple[tuple[str, Callable[[pb.ModelInferRequest], None]], ...]] = (
    ("Truncated", _cut),
    ("NonFinite", _not_finite),
    ("Shape", _of_another_shape),
    ("TooLarge", _endless),
    ("Dtype", _of_no_datatype),
    ("WrongTensors", _twice),
    ("MissingParameter", _without_key),
    ("NotFound", _of_no_version),
)

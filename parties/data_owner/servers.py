"""The inference servers an owner may ask: one after the other, with patience."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Protocol, TypeVar

import grpc

from core.rpc.patience import Patience
from protos import open_inference_pb2 as pb


class Infer(Protocol):
    """What of a server is asked."""

    def __call__(
        self, request: pb.ModelInferRequest, *, timeout: float
    ) -> pb.ModelInferResponse:
        """Ask one server, once."""
        ...


class InferLater(Protocol):
    """The same, asynchronously."""

    def __call__(
        self, request: pb.ModelInferRequest, *, timeout: float
    ) -> Awaitable[pb.ModelInferResponse]:
        """Ask one server, once."""
        ...


Way = TypeVar("Way")


@dataclass(slots=True)
class Servers(Generic[Way]):
    """Replicas of one server: the one that answered last is asked next.

    `on_sent` is called for each attempt, from the thread that makes it.
    """

    ways: Sequence[Way]
    patience: Patience
    deadline_s: float
    on_sent: Callable[[], None] = lambda: None
    pause: Callable[[float], None] = field(default=time.sleep)
    _first: int = 0

    def next_pause_s(
        self, error: grpc.RpcError, at: int, tried: int, until: float
    ) -> float:
        """Turn to the next server, and return the pause; or raise `error`."""
        others = max(0, len(self.ways) - tried)
        left_s = until - time.monotonic()
        pause_s = self.patience.pause_s(error, tried, left_s, others=others)
        if pause_s is None:
            raise error
        if self._first == at:
            self._first = (at + 1) % len(self.ways)
        return pause_s

    def pick(self) -> tuple[int, Way]:
        """The server to ask now, and its number."""
        self.on_sent()
        return self._first, self.ways[self._first]


def ask_one_of(
    servers: Servers[Infer], request: pb.ModelInferRequest
) -> pb.ModelInferResponse:
    """Ask until there is an answer, or no attempt is left, within the deadline.

    Raises:
        grpc.RpcError: of the last attempt.
    """
    until = time.monotonic() + servers.deadline_s
    for tried in count(1):
        at, infer = servers.pick()
        try:
            return infer(request, timeout=max(0.0, until - time.monotonic()))
        except grpc.RpcError as error:
            servers.pause(servers.next_pause_s(error, at, tried, until))
    raise AssertionError


async def ask_one_of_later(
    servers: Servers[InferLater], request: pb.ModelInferRequest
) -> pb.ModelInferResponse:
    """`ask_one_of`, asynchronously."""
    until = time.monotonic() + servers.deadline_s
    for tried in count(1):
        at, infer = servers.pick()
        try:
            return await infer(request, timeout=max(0.0, until - time.monotonic()))
        except grpc.RpcError as error:
            await asyncio.sleep(servers.next_pause_s(error, at, tried, until))
    raise AssertionError

"""Many requests over one stream: sent ahead, answered in order, asked again if safe.

A stream takes requests for half of the deadline, and then the next one takes over: so
each request has at least that half, and a renewed certificate or another replica comes
into use in the middle of a million pictures.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import grpc

from core.rpc.errors import remote_error, remote_errors, status_numbered
from parties.data_owner.answers import Answers
from parties.data_owner.client import Client
from parties.data_owner.errors import UnexpectedAnswerError
from parties.data_owner.inference import (
    Pixels,
    Use,
    budget_errors,
    read_answer,
    request_for,
)
from protos import bulk_pb2 as pb
from protos import open_inference_pb2 as infer_pb

# Requests without an answer: as many as a server reads ahead.
WINDOW: Final = 8
_PEER: Final = "inference server"

# An answer, or how the stream ended.
_Response = pb.InferStreamResponse | grpc.RpcError | None


def predict_many(client: Client, batches: Iterable[Pixels]) -> Iterator[Answers]:
    """Ask about one batch a request, over streams, and give the answers in order.

    No more than `WINDOW` batches are held. What is refused is raised, as `predict`
    does; a request whose key was retired is made once more with its successor, and one
    that was not begun is made again, with the id it had.
    """
    yield from _Bulk(client, iter(batches)).answers()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that waits for its answer, and what it was made of."""

    images: Pixels
    use: Use
    request: infer_pb.ModelInferRequest


@dataclass(slots=True, eq=False)
class _Bulk:
    client: Client
    batches: Iterator[Pixels]
    waiting: deque[_Asked] = field(default_factory=deque)

    def answers(self) -> Iterator[Answers]:
        """Ask over one stream after the other, until all is answered."""
        servers, tried, until = self.client.streams, 0, 0.0
        while self._fetch(1):
            at, infer = servers.pick()
            try:
                with _opened(infer, servers.deadline_s) as stream:
                    for response in self._exchange(stream):
                        tried = 0
                        yield self._settled(self.waiting.popleft(), response)
            except grpc.RpcError as error:
                tried += 1
                until = until if tried > 1 else time.monotonic() + servers.deadline_s
                with remote_errors(_PEER):
                    servers.pause(servers.next_pause_s(error, at, tried, until))

    def _exchange(self, stream: "_Stream") -> Iterator[pb.InferStreamResponse]:
        """Send what waits, and more as long as the stream takes it; give answers."""
        sent = 0
        while self.waiting or not stream.is_over():
            if not stream.is_over():
                self._fetch(WINDOW)
            if not self.waiting:
                return
            for asked in islice(self.waiting, sent, None):
                stream.send(asked.request)
            yield stream.receive()
            sent = len(self.waiting)

    def _fetch(self, wanted: int) -> bool:
        """Encrypt until so many wait; whether any does."""
        for images in islice(self.batches, max(0, wanted - len(self.waiting))):
            use = self.client.use()
            request = request_for(use.encrypt(images), use, self.client.datatype)
            self.waiting.append(_Asked(images, use, request))
        return bool(self.waiting)

    def _settled(self, asked: _Asked, response: pb.InferStreamResponse) -> Answers:
        """Read an answer; a request that may be made again is, in a call of its own."""
        if response.HasField("answer"):
            limit = self.client.settings.max_message_bytes
            return read_answer(asked.request, response.answer, asked.use, limit)
        said = response.error
        if said.kind == "KeyRefused":
            return self.client.ask_anew(asked.images)
        if said.HasField("retry_after_s") and self._may_wait(said.retry_after_s):
            self.client.streams.pause(said.retry_after_s)
            return self.client.send(asked.request, asked.use)
        with budget_errors():
            raise remote_error(
                said.kind, said.hint, status_numbered(said.code), peer=_PEER
            )

    def _may_wait(self, pause_s: float) -> bool:
        return 0 <= pause_s < self.client.streams.deadline_s


@contextmanager
def _opened(infer: Callable[..., Any], deadline_s: float) -> Iterator["_Stream"]:
    stream = _Stream(time.monotonic() + deadline_s / 2)
    call = infer(iter(stream.outgoing.get, None), timeout=deadline_s)
    Thread(target=stream.read, args=(call,), name="answers", daemon=True).start()
    try:
        yield stream
    finally:
        stream.outgoing.put(None)
        call.cancel()


@dataclass(slots=True, eq=False)
class _Stream:
    """One stream. Answers are read as they come: whoever takes them may be slow."""

    takes_until: float
    outgoing: SimpleQueue[pb.InferStreamRequest | None] = field(
        default_factory=SimpleQueue
    )
    incoming: SimpleQueue[_Response] = field(default_factory=SimpleQueue)

    def is_over(self) -> bool:
        """Whether it takes no further requests."""
        return time.monotonic() >= self.takes_until

    def send(self, request: infer_pb.ModelInferRequest) -> None:
        self.outgoing.put(pb.InferStreamRequest(request=request))

    def receive(self) -> pb.InferStreamResponse:
        """Wait for the next answer, or raise how the stream ended."""
        response = self.incoming.get()
        if response is None:
            raise UnexpectedAnswerError("the stream ended before its answers")
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def read(self, call: Any) -> None:
        """Take answers until the stream ends; they are few, as so few are asked for."""
        try:
            for response in call:
                self.incoming.put(response)
        except grpc.RpcError as error:
            self.incoming.put(error)
        else:
            self.incoming.put(None)

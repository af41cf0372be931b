"""Many requests over one stream: sent ahead, answered in order, asked again if safe.

A stream takes requests for half of the deadline, and then the next one takes over: so
each request has at least that half, and a renewed certificate or another replica comes
into use in the middle of a million pictures.

It is written once, as coroutines; whether they wait or block is for `Owner` to say.
The call itself is gRPC's for threads in either case: `grpc.aio` forgets the status that
ended a stream if it was sending at that moment, and so what may be asked again.
"""

import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, TypeAlias

import grpc

from core.rpc.errors import remote_error, remote_errors, status_numbered
from parties.data_owner.answers import Answers
from parties.data_owner.errors import UnexpectedAnswerError
from parties.data_owner.inference import Pixels, Use, budget_errors, read_answer
from parties.data_owner.servers import Servers
from protos import bulk_pb2 as pb
from protos import open_inference_pb2 as infer_pb

# Requests without an answer: as many as a server reads ahead.
WINDOW: Final = 8
_PEER: Final = "inference server"

# An answer, or how the stream ended.
Response: TypeAlias = pb.InferStreamResponse | grpc.RpcError | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits for its answer, and what it was made of."""

    images: Pixels
    use: Use
    request: infer_pb.ModelInferRequest


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Brings what a thread of the stream reads to whoever takes the answers."""

    put: Callable[[Response], None]
    get: Callable[[], Awaitable[Response]]


class Owner(Protocol):
    """What of an owner's client is used."""

    @property
    def streams(self) -> Servers[Any]:
        """The servers, and how a stream to one is begun."""
        ...

    @property
    def max_answer_bytes(self) -> int: ...

    async def write(self, images: Pixels) -> Asked:
        """Encrypt images, and write the request about them."""
        ...

    async def send(self, request: infer_pb.ModelInferRequest, use: Use) -> Answers:
        """Make a request in a call of its own."""
        ...

    async def ask_anew(self, images: Pixels) -> Answers:
        """Ask with the successor of a key that was just refused."""
        ...

    def pause(self, seconds: float, /) -> Awaitable[None]: ...

    def mailbox(self) -> Mailbox: ...


@dataclass(slots=True, eq=False)
class Exchange:
    """One owner's batches, and the answers to them; `answers` is to be called once."""

    owner: Owner
    batches: AsyncIterator[Pixels]
    waiting: deque[Asked] = field(default_factory=deque)

    async def answers(self) -> AsyncGenerator[Answers, None]:
        """Ask over one stream after the other, until all is answered."""
        servers, tried, until = self.owner.streams, 0, 0.0
        while await self._fetch(1):
            at, infer = servers.pick()
            try:
                with _opened(infer, servers.deadline_s, self.owner.mailbox()) as stream:
                    async for response in self._responses(stream):
                        tried = 0
                        yield await self._settled(self.waiting.popleft(), response)
            except grpc.RpcError as error:
                tried += 1
                until = until if tried > 1 else time.monotonic() + servers.deadline_s
                with remote_errors(_PEER):
                    pause_s = servers.next_pause_s(error, at, tried, until)
                await self.owner.pause(pause_s)

    async def _responses(
        self, stream: "_Stream"
    ) -> AsyncIterator[pb.InferStreamResponse]:
        """Send what waits, and more as long as the stream takes it; give answers."""
        sent = 0
        while True:
            if not stream.is_over():
                await self._fetch(WINDOW)
            # To read a batch may have taken long.
            if not stream.is_over():
                for asked in islice(self.waiting, sent, None):
                    stream.send(asked.request)
                sent = len(self.waiting)
            if not sent:
                return
            yield await stream.receive()
            sent -= 1

    async def _fetch(self, wanted: int) -> bool:
        """Encrypt until so many wait; whether any does."""
        while len(self.waiting) < wanted:
            try:
                images = await anext(self.batches)
            except StopAsyncIteration:
                break
            self.waiting.append(await self.owner.write(images))
        return bool(self.waiting)

    async def _settled(self, asked: Asked, response: pb.InferStreamResponse) -> Answers:
        """Read an answer; a request that may be made again is, in a call of its own."""
        if response.HasField("answer"):
            limit = self.owner.max_answer_bytes
            return read_answer(asked.request, response.answer, asked.use, limit)
        said = response.error
        if said.kind == "KeyRefused":
            return await self.owner.ask_anew(asked.images)
        if said.HasField("retry_after_s") and self._may_wait(said.retry_after_s):
            await self.owner.pause(said.retry_after_s)
            return await self.owner.send(asked.request, asked.use)
        with budget_errors():
            raise remote_error(
                said.kind, said.hint, status_numbered(said.code), peer=_PEER
            )

    def _may_wait(self, pause_s: float) -> bool:
        return 0 <= pause_s < self.owner.streams.deadline_s


@contextmanager
def _opened(
    infer: Callable[..., Any], deadline_s: float, incoming: Mailbox
) -> Iterator["_Stream"]:
    stream = _Stream(time.monotonic() + deadline_s / 2, incoming)
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
    incoming: Mailbox
    outgoing: SimpleQueue[pb.InferStreamRequest | None] = field(
        default_factory=SimpleQueue
    )

    def is_over(self) -> bool:
        """Whether it takes no further requests."""
        return time.monotonic() >= self.takes_until

    def send(self, request: infer_pb.ModelInferRequest) -> None:
        self.outgoing.put(pb.InferStreamRequest(request=request))

    async def receive(self) -> pb.InferStreamResponse:
        """Wait for the next answer, or raise how the stream ended."""
        response = await self.incoming.get()
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

"""Many requests over streams, in a program of threads: each step blocks."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from parties.data_owner.answers import Answers
from parties.data_owner.client import Client
from parties.data_owner.exchange import Asked, Exchange, Mailbox, Response
from parties.data_owner.inference import Pixels, Use, request_for
from parties.data_owner.servers import Servers
from protos import open_inference_pb2 as infer_pb

T = TypeVar("T")


def predict_many(client: Client, batches: Iterable[Pixels]) -> Iterator[Answers]:
    """Ask about one batch a request, over streams, and give the answers in order.

    No more than `WINDOW` batches are held. What is refused is raised, as `predict`
    does; a request whose key was retired is made once more with its successor, and one
    that was not begun is made again, with the id it had.
    """
    exchange = Exchange(_Blocking(client), _each(batches))
    yield from _blocking(exchange.answers())


@dataclass(frozen=True, slots=True)
class _Blocking:
    """The client's methods in the shape of coroutines, though none of them waits."""

    client: Client

    @property
    def streams(self) -> Servers[Callable[..., Any]]:
        return self.client.streams

    @property
    def max_answer_bytes(self) -> int:
        return self.client.settings.max_message_bytes

    async def write(self, images: Pixels) -> Asked:
        use = self.client.use()
        blocks = use.encrypt(images, self.client.entropy)
        request = request_for(blocks, use, self.client.datatype)
        return Asked(images, use, request)

    async def send(self, request: infer_pb.ModelInferRequest, use: Use) -> Answers:
        return self.client.send(request, use)

    async def ask_anew(self, images: Pixels) -> Answers:
        return self.client.ask_anew(images)

    async def pause(self, seconds: float) -> None:
        self.client.streams.pause(seconds)

    def mailbox(self) -> Mailbox:
        queue: SimpleQueue[Response] = SimpleQueue()

        async def get() -> Response:
            return queue.get()

        return Mailbox(queue.put, get)


async def _each(batches: Iterable[Pixels]) -> AsyncIterator[Pixels]:
    for images in batches:
        yield images


def _blocking(answers: AsyncGenerator[T, None]) -> Iterator[T]:
    """Run what never waits, without an event loop: each step ends where it began."""
    try:
        while True:
            yield _outcome(anext(answers))
    except StopAsyncIteration:
        return
    finally:
        _outcome(answers.aclose())


def _outcome(step: Awaitable[T]) -> T:
    try:
        next(step.__await__())
    except StopIteration as ended:
        outcome: T = ended.value
        return outcome
    raise AssertionError("it waits for an event loop")

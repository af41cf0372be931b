"""The owner's client for programs that run an event loop.

Keys, registry and log are looked at by the blocking client, in a thread; questions go
over channels of the event loop, any number at a time, and streams have threads.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc

from core.rpc.channel import async_channel
from core.rpc.errors import RemoteRefusedError, remote_errors
from core.rpc.identity import Identity, load_identity
from core.rpc.patience import Patience
from core.rpc.settings import Peer
from parties.data_owner.answers import Answers
from parties.data_owner.client import Client, open_client
from parties.data_owner.exchange import Asked, Exchange, Mailbox, Response
from parties.data_owner.inference import (
    Pixels,
    Use,
    budget_errors,
    read_answer,
    request_for,
)
from parties.data_owner.servers import InferLater, Servers, ask_one_of_later
from parties.data_owner.settings import OwnerSettings
from protos import open_inference_pb2 as pb
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub


@asynccontextmanager
async def open_async_client(
    folder: Path, model: str | None = None
) -> AsyncIterator["AsyncClient"]:
    """Connect with the identity, keys and settings in the owner's folder."""
    settings = OwnerSettings.read(folder)
    async with AsyncExitStack() as stack:
        client = stack.enter_context(open_client(folder, model))
        servers = settings.servers_for(load_identity(folder).spiffe)
        ways = [_Way(folder, peer, settings, stack) for peer in servers]
        yield AsyncClient(client, ways, settings)


class AsyncClient:
    """One owner's view of the federation, for many questions at a time."""

    def __init__(
        self, client: Client, ways: Sequence[InferLater], settings: OwnerSettings
    ) -> None:
        self._client = client
        self.max_answer_bytes = settings.max_message_bytes
        patience = Patience(unsure=settings.resend_unsure)
        self._servers = Servers(ways, patience, settings.deadline_s)
        self.streams = client.streams
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        # The blocking client is not for several threads at once, not even for one
        # that looks on for somebody who was cancelled.
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="looking")

    async def predict(self, images: Pixels) -> Answers:
        """Encrypt images in this process and ask about them in one request.

        A request whose key was retired meanwhile is made once more, as `Client` does.
        """
        asked = await self.write(images)
        try:
            return await self.send(asked.request, asked.use)
        except RemoteRefusedError as error:
            if error.kind != "KeyRefused":
                raise
            return await self.ask_anew(images)

    async def predict_many(
        self, batches: Iterable[Pixels] | AsyncIterable[Pixels]
    ) -> AsyncGenerator[Answers, None]:
        """Ask about one batch a request, over streams, and give the answers in order.

        It promises what `bulk.predict_many` does. Several may run at a time; a server
        lets an owner have a few streams. Who leaves before the end should do so within
        `contextlib.aclosing`, as with any such generator: it ends the stream.
        """
        exchange = Exchange(self, _each(batches))
        async with aclosing(exchange.answers()) as answers:
            async for each in answers:
                yield each

    async def write(self, images: Pixels, *, fresh: bool = False) -> Asked:
        """Encrypt images, and write the request about them; both in a thread."""
        look = partial(self._client.use, fresh=fresh)
        use = await asyncio.get_running_loop().run_in_executor(self._looking, look)
        request = await asyncio.to_thread(
            lambda: request_for(use.encrypt(images), use, self._client.datatype)
        )
        return Asked(images, use, request)

    async def send(self, request: pb.ModelInferRequest, use: Use) -> Answers:
        """Send a request that was made with `use`, again if that is safe."""
        with budget_errors(), remote_errors("inference server"):
            answer = await ask_one_of_later(self._servers, request)
        return read_answer(request, answer, use, self.max_answer_bytes)

    async def ask_anew(self, images: Pixels) -> Answers:
        """Ask in one request, with the successor of a key that was just refused."""
        asked = await self.write(images, fresh=True)
        return await self.send(asked.request, asked.use)

    def mailbox(self) -> Mailbox:
        """Where a stream's thread leaves answers for this event loop."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Response] = asyncio.Queue()

        def put(response: Response) -> None:
            # The loop may be closed: then nobody waits for it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, response)

        return Mailbox(put, queue.get)


async def _each(
    batches: Iterable[Pixels] | AsyncIterable[Pixels],
) -> AsyncIterator[Pixels]:
    if isinstance(batches, AsyncIterable):
        async for images in batches:
            yield images
    else:
        for images in batches:
            yield images


@dataclass(slots=True)
class _Way:
    """One server, over a channel whose certificate is read again when it is due."""

    folder: Path
    peer: Peer
    settings: OwnerSettings
    stack: AsyncExitStack = field(repr=False)
    _identity: Identity | None = None
    _channel: grpc.aio.Channel | None = None

    def __call__(
        self, request: pb.ModelInferRequest, *, timeout: float
    ) -> Awaitable[pb.ModelInferResponse]:
        return self._infer(request, timeout)

    async def _infer(
        self, request: pb.ModelInferRequest, timeout_s: float
    ) -> pb.ModelInferResponse:
        channel = await self._newest()
        answer: pb.ModelInferResponse = await GRPCInferenceServiceStub(
            channel
        ).ModelInfer(request, timeout=timeout_s)
        return answer

    async def _newest(self) -> grpc.aio.Channel:
        """The open channel; calls on one before it go on until the client ends."""
        if self._channel is not None and not self._due():
            return self._channel
        identity = load_identity(self.folder)
        if self._channel is None or self._is_new(identity):
            self._channel = await self.stack.enter_async_context(
                async_channel(
                    self.peer.address,
                    identity,
                    self.peer.spiffe_id,
                    max_message_bytes=self.settings.max_message_bytes,
                )
            )
        self._identity = identity
        return self._channel

    def _due(self) -> bool:
        known = self._identity
        return known is not None and datetime.now(UTC) >= known.renew_at

    def _is_new(self, identity: Identity) -> bool:
        known = self._identity
        return known is None or identity.certificate != known.certificate

"""The owner's client for programs that run an event loop.

Keys, registry and log are looked at by the blocking client, in a thread; questions go
over channels of the event loop, any number at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc

from core.rpc.channel import async_channel
from core.rpc.errors import RemoteRefusedError, remote_errors
from core.rpc.identity import Identity, load_identity
from core.rpc.patience import Patience
from core.rpc.settings import Peer
from parties.data_owner.answers import Answers
from parties.data_owner.client import Client, open_client
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
        self._settings = settings
        patience = Patience(unsure=settings.resend_unsure)
        self._servers = Servers(ways, patience, settings.deadline_s)
        # The blocking client is not for several threads at once.
        self._looking = asyncio.Lock()

    async def predict(self, images: Pixels) -> Answers:
        """Encrypt images in this process and ask about them in one request.

        A request whose key was retired meanwhile is made once more, as `Client` does.
        """
        use = await self._use()
        try:
            return await self._ask(images, use)
        except RemoteRefusedError as error:
            if error.kind != "KeyRefused":
                raise
            return await self._ask(images, await self._use(fresh=True))

    async def _use(self, *, fresh: bool = False) -> Use:
        async with self._looking:
            return await asyncio.to_thread(self._client.use, fresh=fresh)

    async def _ask(self, images: Pixels, use: Use) -> Answers:
        request = request_for(use.encrypt(images), use, self._client.datatype)
        with budget_errors(), remote_errors("inference server"):
            answer = await ask_one_of_later(self._servers, request)
        return read_answer(request, answer, use, self._settings.max_message_bytes)


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

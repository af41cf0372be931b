"""Connections of a load generator, as cheap as they can be: bytes in, bytes out."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import grpc
import grpc.aio

from core.errors import PeerUnavailable

LOOPBACK: Final = "127.0.0.1"

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The files of a client that proves who it is; `server` is the name it expects."""

    ca: str
    certificate: str
    key: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go, all on the loopback interface, and what form they have.

    Args:
        transport: `http` or `grpc`.
        path: of a URL, or the full name of a method, `/package.Service/Method`.
        form: a name in `orchestrator.bench.forms.FORMS`.
        tls: whom to expect, and as whom to ask; None: in clear.
        caller: as whom to ask in clear, for a server that believes it.
    """

    transport: str
    port: int
    path: str
    form: str
    tls: Tls | None = None
    caller: str = ""

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Self:
        """The target that `asdict` made these entries of."""
        tls = entries.get("tls")
        return cls(**{**entries, "tls": tls and Tls(**tls)})


class Connection(Protocol):
    """One caller's way to the server; one request at a time."""

    async def ask(self, body: bytes) -> bytes:
        """Send a request and wait for its answer.

        Raises:
            PeerUnavailable: there was none, or it was a refusal.
        """

    async def close(self) -> None:
        """Let go of it."""


async def connect(target: Target) -> Connection:
    """Open a connection of the target's kind.

    Raises:
        PeerUnavailable: nobody listens.
    """
    if target.transport == "grpc":
        return _Grpc(target)
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Http(target), LOOPBACK, target.port
        )
    except OSError as error:
        raise PeerUnavailable(f"port {target.port}: {error}") from None
    return connection


class _Http(asyncio.Protocol):
    """HTTP/1.1, kept alive, and no more of it than the peers speak."""

    def __init__(self, target: Target) -> None:
        head = f"POST {target.path} HTTP/1.1\r\nHost: {LOOPBACK}:{target.port}\r\n"
        kind = "Content-Type: application/octet-stream\r\nContent-Length: "
        self._head = (head + kind).encode()
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            answer = _body(self._received)
        except PeerUnavailable as refusal:
            self._fail(refusal)
            return
        if answer is not None and self._answer is not None:
            self._received.clear()
            if not self._answer.done():
                self._answer.set_result(answer)
            self._answer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(PeerUnavailable(f"the connection was closed: {exc}"))

    async def ask(self, body: bytes) -> bytes:
        if self._transport is None:
            raise PeerUnavailable("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        return await self._answer

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: PeerUnavailable) -> None:
        # Who asked may have been told to stop: its connection ends after it.
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._answer = None
        if self._transport is not None:
            self._transport.abort()


def _body(received: bytearray) -> bytes | None:
    """The body of the answer, or None while some of it is missing."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    start = end + len(_HEAD_END)
    length = _length(head)
    if len(received) < start + length:
        return None
    if head.split(b" ", 2)[1] != b"200":
        told = bytes(received[start : start + 200])
        raise PeerUnavailable(f"{head.splitlines()[0]!r}: {told!r}")
    return bytes(received[start : start + length])


def _length(head: bytes) -> int:
    for line in head.splitlines():
        if line.startswith(_LENGTH):
            return int(line[len(_LENGTH) :])
    raise PeerUnavailable("the answer does not say how long it is")


class _Grpc:
    """gRPC, the messages left as the bytes that they are; a channel for each caller."""

    def __init__(self, target: Target) -> None:
        self._channel = _channel(target)
        self._call: Any = self._channel.unary_unary(
            target.path, request_serializer=None, response_deserializer=None
        )
        self._said = (("caller", target.caller),) if target.caller else None

    async def ask(self, body: bytes) -> bytes:
        try:
            answer: bytes = await self._call(body, metadata=self._said)
        except grpc.aio.AioRpcError as error:
            raise PeerUnavailable(f"{error.code().name}: {error.details()}") from None
        return answer

    async def close(self) -> None:
        await self._channel.close()


def _channel(target: Target) -> grpc.aio.Channel:
    place = f"{LOOPBACK}:{target.port}"
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", _MAX_BYTES),
        ("grpc.max_receive_message_length", _MAX_BYTES),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if target.tls is None:
        return grpc.aio.insecure_channel(place, options=options)
    options.append(("grpc.ssl_target_name_override", target.tls.server))
    credentials = grpc.ssl_channel_credentials(
        Path(target.tls.ca).read_bytes(),
        Path(target.tls.key).read_bytes(),
        Path(target.tls.certificate).read_bytes(),
    )
    return grpc.aio.secure_channel(place, credentials, options=options)

"""A small service of all four kinds of calls, and a federation to call it from."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from core.errors import StorageError
from core.rpc.channel import open_channel
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.identity import (
    DATA_OWNER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    Identity,
    SpiffeId,
    create_identity,
    install_certificate,
    load_identity,
)
from core.rpc.policy import Policy, Refusal, current_caller
from core.rpc.server import RunningServer, ServerSettings, serve
from orchestrator.certificates import DevelopmentCA

SERVICE = "test.v1.Echo"
METHODS = ("Say", "Count", "Sum", "Chat", "Wait", "Fail", "FailLate")
POLICY: Final[Policy] = MappingProxyType(
    {f"/{SERVICE}/{method}": frozenset({DATA_OWNER}) for method in METHODS}
)
SERVER = SpiffeId("demo", "hospital", KEY_HOLDER)
OWNER = SpiffeId("demo", "clinic", DATA_OWNER)
PROVIDER = SpiffeId("demo", "lab", MODEL_PROVIDER)
# What is awaited comes: a machine that stands still for a while only delays it.
LONG_S = 60.0
# A tag of a kind that protobuf does not have.
NO_MESSAGE = b"\xff" * 20
CONFIDED = "the seed is 0x1234"
SETTINGS = ServerSettings(workers=4, max_message_bytes=1 << 16, drain_s=LONG_S)


@dataclass
class Federation:
    """An authority, and identities signed by it."""

    folder: Path
    ca: DevelopmentCA

    def enrol(self, spiffe: SpiffeId, hours: float = 24) -> Identity:
        folder = self.folder / str(spiffe).removeprefix("spiffe://")
        csr = create_identity(folder, spiffe)
        install_certificate(folder, self.ca.sign(csr, spiffe, hours), self.ca.ca_pem)
        return load_identity(folder)

    def enrol_expired(self, spiffe: SpiffeId) -> Identity:
        current = self.enrol(spiffe)
        csr = create_identity(self.folder / "expired", spiffe)
        key = (self.folder / "expired" / "identity.key").read_bytes()
        expired = self.ca.sign(csr, spiffe, -0.01)
        return replace(current, certificate=expired, private_key=key)


@dataclass
class Echo:
    """One method of each of the four kinds, and some that misbehave."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    # How many more calls of `Say` find the service unavailable.
    away: int = 0
    error: Exception = field(default_factory=lambda: ValueError(CONFIDED))
    _server: grpc.Server | None = None

    def wait_for_calls(self, count: int) -> None:
        """Return when the server has so many calls, those that wait among them."""
        assert self._server is not None
        for _ in range(60_000):
            # Only gRPC's own state tells; a service learns of a call when it begins.
            if len(self._server._state.rpc_states) == count:  # type: ignore[attr-defined]
                return
            time.sleep(0.001)
        raise AssertionError(f"the server never had {count} calls")

    def say(self, request: BytesValue, _: grpc.ServicerContext) -> BytesValue:
        if self.away:
            self.away -= 1
            raise StorageError(CONFIDED)
        return BytesValue(value=request.value + str(current_caller()).encode())

    def count(
        self, request: BytesValue, _: grpc.ServicerContext
    ) -> Iterator[BytesValue]:
        for value in request.value:
            caller = str(current_caller()).encode()
            yield BytesValue(value=bytes([value]) + caller)

    def sum(
        self, requests: Iterator[BytesValue], _: grpc.ServicerContext
    ) -> BytesValue:
        try:
            total = b"".join(request.value for request in requests)
            return BytesValue(value=total + str(current_caller()).encode())
        finally:
            self.left.set()

    def chat(
        self, requests: Iterator[BytesValue], context: grpc.ServicerContext
    ) -> Iterator[BytesValue]:
        for request in requests:
            yield self.say(request, context)

    def wait(self, request: BytesValue, _: grpc.ServicerContext) -> BytesValue:
        self.entered.set()
        self.release.wait(LONG_S)
        self.left.set()
        return request

    def fail(self, _request: BytesValue, _: grpc.ServicerContext) -> BytesValue:
        raise self.error

    def fail_late(
        self, request: BytesValue, _: grpc.ServicerContext
    ) -> Iterator[BytesValue]:
        yield request
        raise self.error

    def register(self, server: grpc.Server) -> None:
        read, write = BytesValue.FromString, BytesValue.SerializeToString
        unary = grpc.unary_unary_rpc_method_handler
        stream = grpc.unary_stream_rpc_method_handler
        methods = {
            "Say": unary(self.say, read, write),
            "Wait": unary(self.wait, read, write),
            "Fail": unary(self.fail, read, write),
            "Unlisted": unary(self.say, read, write),
            "Count": stream(self.count, read, write),
            "FailLate": stream(self.fail_late, read, write),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum, read, write),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat, read, write),
        }
        handler = grpc.method_handlers_generic_handler(SERVICE, methods)
        server.add_generic_rpc_handlers([handler])
        self._server = server


@dataclass
class Stub:
    """The client's side of `Echo`; every call gives and takes `bytes`."""

    channel: grpc.Channel

    def ask(
        self, method: str, data: bytes = b"", timeout: float | None = None
    ) -> bytes:
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", _write, _read)
        return call(data, timeout=timeout)

    def start(self, method: str, data: bytes) -> "grpc.Future[bytes]":
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", _write, _read)
        return call.future(data)

    def receive(self, method: str, data: bytes) -> Iterator[bytes]:
        return self.channel.unary_stream(f"/{SERVICE}/{method}", _write, _read)(data)

    def send(self, method: str, data: Iterator[bytes]) -> bytes:
        return self.channel.stream_unary(f"/{SERVICE}/{method}", _write, _read)(data)

    def exchange(self, method: str, data: Iterator[bytes]) -> Iterator[bytes]:
        return self.channel.stream_stream(f"/{SERVICE}/{method}", _write, _read)(data)


@dataclass
class Raw:
    """The client's side of `Echo` for what is no message."""

    channel: grpc.Channel

    def __getattr__(self, kind: str) -> Callable[[str], Callable[..., Any]]:
        build = getattr(self.channel, kind)
        return lambda method: build(f"/{SERVICE}/{method}", bytes, bytes)


def _write(data: bytes) -> bytes:
    return BytesValue(value=data).SerializeToString()


def _read(data: bytes) -> bytes:
    return BytesValue.FromString(data).value


@dataclass
class House:
    """A server that runs, its service, and the refusals it was told of."""

    server: RunningServer
    echo: Echo
    refusals: list[Refusal]
    _stack: ExitStack

    def close(self) -> None:
        """Stop the server; again is no error."""
        self._stack.close()

    @contextmanager
    def visit(
        self,
        identity: Identity,
        *,
        peer: SpiffeId = SERVER,
        deadline_s: float = LONG_S,
        max_message_bytes: int = 1 << 20,
        retries: Collection[str] = (),
    ) -> Iterator[Stub]:
        with open_channel(
            self.server.address,
            identity,
            peer,
            deadline_s=deadline_s,
            max_message_bytes=max_message_bytes,
            retries=retries,
        ) as channel:
            yield Stub(channel)


@contextmanager
def opened(
    identity: Identity,
    *,
    settings: ServerSettings = SETTINGS,
    on_refusal: Callable[[Refusal], None] | None = None,
    admit: Callable[[SpiffeId], None] | None = None,
) -> Iterator[House]:
    """Serve `Echo`, and release whoever waits in it before the server drains."""
    echo, refusals, stack = Echo(), list[Refusal](), ExitStack()
    server = stack.enter_context(
        serve(
            identity,
            POLICY,
            echo.register,
            [SERVICE],
            settings=settings,
            on_refusal=on_refusal or refusals.append,
            admit=admit,
        )
    )
    with stack:
        try:
            yield House(server, echo, refusals, stack)
        finally:
            echo.release.set()


@contextmanager
def endless() -> Iterator[Iterator[bytes]]:
    """Requests of which none ever comes, until the block is left."""
    done = threading.Event()

    def wait() -> Iterator[bytes]:
        done.wait(LONG_S)
        yield from ()

    try:
        yield wait()
    finally:
        done.set()


def refused(
    kind: str, status: grpc.StatusCode, call: Callable[[], object]
) -> RemoteError:
    """Call, and require this refusal."""
    with pytest.raises(RemoteError) as caught, remote_errors("the server"):
        call()

    assert (kind, status) == (caught.value.kind, caught.value.status)
    return caught.value

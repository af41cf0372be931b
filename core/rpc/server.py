"""Build, serve and drain a gRPC server: mutual TLS, a policy, health, reflection."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from core.errors import ConfigurationError, WrongFederationError
from core.rpc.health import Health
from core.rpc.identity import Identity, SpiffeId
from core.rpc.policy import Guard, Policy, Refusal
from core.rpc.refusals import reporting

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Bounds of one server."""

    max_message_bytes: int = 16 << 20
    # What it sends was not made by a stranger: a whole registry's standing is larger.
    max_answer_bytes: int = 64 << 20
    # Streams may hold a quarter of them, and at least one; so there should be two.
    workers: int = 16
    # Calls that run or wait for a worker; one more is refused as `Exhausted`.
    max_concurrent_calls: int = 128
    # A stream, such as an upload, is cancelled after this time.
    max_stream_s: float = 300.0
    # How long running calls may go on once the server is told to stop.
    drain_s: float = 5.0
    # A connection is closed at this age, so that the peer's certificate is seen anew.
    max_connection_age_s: float = 1800.0
    # So is one that nobody asks anything on. gRPC keeps room to read the largest
    # message that came on it (https://github.com/grpc/grpc/issues/42194): with many
    # owners that can be most of a server's memory. Whoever asks again is connected
    # again, unseen. gRPC looks once in such a time: it is closed after one to two.
    max_connection_idle_s: float = 60.0
    # A call on a connection that is due to close gets this much longer.
    max_connection_grace_s: float = 300.0

    @property
    def max_streams(self) -> int:
        """How many may be open at once, of every kind."""
        return max(1, self.workers // 4)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers calls."""

    address: str
    port: int
    _health: Health = field(repr=False)
    _service_names: Sequence[str] = field(repr=False)
    _stop: SimpleQueue[str] = field(repr=False)

    def set_serving(self, serving: bool, why: str = "") -> None:
        """Answer health checks of the whole and of each service with `serving`.

        `why` not is told with them: a kind and a hint, for any peer may read it.
        """
        self._health.why = why
        word = health_pb2.HealthCheckResponse.ServingStatus
        status = word.SERVING if serving else word.NOT_SERVING
        for name in ("", *self._service_names):
            self._health.set(name, status)

    def retire(self) -> None:
        """Answer health checks with NOT_SERVING from now on, whatever is set."""
        self._health.enter_graceful_shutdown()

    def wait(self) -> None:
        """Block until SIGTERM, SIGINT or `stop`; leave the context to drain."""
        with _signals_to(self._stop.put):
            reason = self._stopped()
        log.info("server stops", extra={"reason": reason})

    def stop(self) -> None:
        """Let `wait` return."""
        self._stop.put("stop")

    def _stopped(self) -> str:
        """Why; a signal that came just before the wait would not end it: look again."""
        while True:
            with suppress(Empty):
                return self._stop.get(timeout=_LOOK_EVERY_S)


@contextmanager
def serve(
    identity: Identity,
    policy: Policy,
    register: Callable[[grpc.Server], None],
    service_names: Sequence[str],
    address: str = "127.0.0.1:0",
    *,
    settings: ServerSettings | None = None,
    on_refusal: Callable[[Refusal], None] | None = None,
    federation: str | None = None,
    admit: Callable[[SpiffeId], None] | None = None,
) -> Iterator[RunningServer]:
    """Serve until the context is left, then drain: refuse new calls, let running end.

    The server starts unhealthy: call `set_serving(True)` when the party is ready.
    Every error of a method, streams included, is translated by `rpc_errors`.

    Args:
        identity: ours; callers must hold a certificate of the same authority.
        policy: who may call what; health is for every role, reflection for operators.
        register: adds the servicers, such as `add_XServicer_to_server`.
        service_names: full names, for health and reflection.
        address: `host:port`; port 0 takes a free one.
        settings: bounds.
        on_refusal: told of every refused call, from a thread of its own.
        federation: the trust domain of the callers; ours, if not given.
        admit: a last check of the caller on every call; see `Guard`.
    """
    limits = settings or ServerSettings()
    federation = federation or identity.spiffe.federation
    if federation != identity.spiffe.federation:
        raise WrongFederationError(f"expected {federation}, we are {identity.spiffe}")
    with (
        _workers(limits.workers) as pool,
        reporting(on_refusal or _ignore) as report,
    ):
        guard = Guard(
            policy,
            federation,
            on_refusal=report,
            max_stream_s=limits.max_stream_s,
            max_streams=limits.max_streams,
            admit=admit,
        )
        server = _build(pool, guard, limits)
        register(server)
        port = _listen(server, address, identity)
        running = _equip(server, address, port, service_names)
        server.start()
        log.info("server listens", extra={"address": running.address})
        try:
            yield running
        finally:
            # Health first, so that whoever asks for it stops sending.
            running.retire()
            server.stop(limits.drain_s).wait()


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(count, thread_name_prefix="rpc")
    try:
        yield pool
    finally:
        # A call that outlived the drain was cancelled; nobody waits for its thread.
        pool.shutdown(wait=False, cancel_futures=True)


def _build(
    pool: ThreadPoolExecutor, guard: Guard, limits: ServerSettings
) -> grpc.Server:
    return grpc.server(
        pool,
        interceptors=[guard],
        maximum_concurrent_rpcs=limits.max_concurrent_calls,
        options=[
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_answer_bytes),
            ("grpc.max_connection_age_ms", int(limits.max_connection_age_s * 1000)),
            ("grpc.max_connection_idle_ms", int(limits.max_connection_idle_s * 1000)),
            (
                "grpc.max_connection_age_grace_ms",
                int(limits.max_connection_grace_s * 1000),
            ),
            ("grpc.server_handshake_timeout_ms", 10_000),
            # With it, a second server on the same port would share its calls unseen.
            ("grpc.so_reuseport", 0),
        ],
    )


def _listen(server: grpc.Server, address: str, identity: Identity) -> int:
    credentials = grpc.ssl_server_credentials(
        [(identity.private_key, identity.certificate)],
        root_certificates=identity.ca,
        require_client_auth=True,
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {address}: {error}") from error
    if port == 0:
        raise ConfigurationError(f"cannot listen on {address}")
    return port


def _equip(
    server: grpc.Server, address: str, port: int, service_names: Sequence[str]
) -> RunningServer:
    servicer = Health()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection(
        (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    host = address.rpartition(":")[0]
    running = RunningServer(
        f"{host}:{port}", port, servicer, tuple(service_names), SimpleQueue()
    )
    running.set_serving(False)
    return running


@contextmanager
def _signals_to(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` at SIGTERM and SIGINT; only the main thread can be asked for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        stop(signal.Signals(number).name)

    former = {
        number: signal.signal(number, handle)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ignore(_refusal: Refusal) -> None:
    """Refusals are in the log anyway."""

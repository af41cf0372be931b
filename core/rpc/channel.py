"""A channel to one peer: mutual TLS with exactly that peer, a deadline on each call."""

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from core.errors import KeymixerError, PeerUnavailable
from core.rpc.health import require_serving
from core.rpc.identity import Identity, SpiffeId, dns_name

_PROBE_S: Final = 2.0
# However little time is left, a probe has so much: else its answer is never heard.
_PROBE_AT_LEAST_S: Final = 0.05
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
# A connection that nobody uses is let go of after one to two such times.
_IDLE_MS: Final = 25_000


@contextmanager
def open_channel(
    address: str,
    identity: Identity,
    peer: SpiffeId,
    *,
    deadline_s: float = 10.0,
    max_message_bytes: int = 16 << 20,
    retries: Collection[str] = (),
) -> Iterator[grpc.Channel]:
    """Open a channel on which only `peer` can answer; connect at the first call.

    Wrap calls in `remote_errors`. The channel keeps the certificate it was opened
    with: open a new one from `identity.renew_at` on.

    Args:
        address: `host:port`.
        identity: ours.
        peer: whose certificate the server must hold.
        deadline_s: for each call that is given no `timeout`, streams included.
        max_message_bytes: of one message, either way.
        retries: full names (`/package.Service/Method`) of methods that are safe to
            call twice; they are tried up to four times while the peer is unavailable.

    Raises:
        ExpiredCertificateError: our own certificate is not valid now.
    """
    identity.check_validity()
    credentials = grpc.ssl_channel_credentials(
        identity.ca, identity.private_key, identity.certificate
    )
    options = _options(dns_name(peer), max_message_bytes, retries)
    with grpc.secure_channel(address, credentials, options) as channel:
        yield grpc.intercept_channel(channel, _Deadline(deadline_s))


@asynccontextmanager
async def async_channel(
    address: str,
    identity: Identity,
    peer: SpiffeId,
    *,
    max_message_bytes: int = 16 << 20,
) -> AsyncIterator[grpc.aio.Channel]:
    """`open_channel` for an event loop; each call is to be given a `timeout`."""
    identity.check_validity()
    credentials = grpc.ssl_channel_credentials(
        identity.ca, identity.private_key, identity.certificate
    )
    options = _options(dns_name(peer), max_message_bytes, ())
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        yield channel


def wait_ready(
    address: str, identity: Identity, peer: SpiffeId, service: str, timeout_s: float
) -> None:
    """Return once the peer's health check says that `service` is served.

    Raises:
        PeerUnavailable: it was not, within `timeout_s`; the message says why not.
    """
    end = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    with open_channel(address, identity, peer, deadline_s=_PROBE_S) as channel:
        while (why := _not_ready(channel, service, str(peer), end)) is not None:
            if time.monotonic() + pause_s >= end:
                raise PeerUnavailable(
                    f"{peer} at {address} is not ready after {timeout_s:g} s: {why}"
                ) from why
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _not_ready(
    channel: grpc.Channel, service: str, peer: str, end: float
) -> KeymixerError | None:
    left_s = max(min(_PROBE_S, end - time.monotonic()), _PROBE_AT_LEAST_S)
    try:
        require_serving(channel, service, peer, left_s)
    except KeymixerError as error:
        return error
    return None


def _options(
    name: str, max_message_bytes: int, retries: Collection[str]
) -> list[tuple[str, Any]]:
    return [
        ("grpc.ssl_target_name_override", name),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.service_config", _service_config(retries)),
        # Parties restart; the default would wait for up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Before the server closes it: of that gRPC would tell on standard error.
        ("grpc.client_idle_timeout_ms", _IDLE_MS),
        # A channel with a fresh certificate must not find an old connection.
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy named in the environment is no party of the federation.
        ("grpc.enable_http_proxy", 0),
    ]


def _service_config(retries: Collection[str]) -> str:
    """The retry policy of gRPC itself (its proposal A6), for the named methods."""
    names = [
        dict(zip(("service", "method"), name.lstrip("/").split("/"), strict=True))
        for name in sorted(retries)
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {"methodConfig": [{"name": names, "retryPolicy": policy}] if names else []}
    )


@dataclass(frozen=True, slots=True)
class _CallDetails(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


_Next: TypeAlias = Callable[[grpc.ClientCallDetails, Any], Any]


class _Deadline(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Gives a deadline to every call that has none."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def intercept_unary_unary(
        self,
        continuation: _Next,
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return continuation(self._bounded(client_call_details), request)

    intercept_unary_stream = intercept_unary_unary

    def intercept_stream_unary(
        self,
        continuation: _Next,
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return continuation(self._bounded(client_call_details), request_iterator)

    intercept_stream_stream = intercept_stream_unary

    def _bounded(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        if details.timeout is not None:
            return details
        return _CallDetails(
            details.method,
            self._deadline_s,
            details.metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

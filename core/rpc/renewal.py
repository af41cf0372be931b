"""A channel that outlives its certificate: calls go over one with the newest.

gRPC keeps the certificate a channel was opened with. From `renew_at` on the identity is
read again, and new calls go over a new channel; the one before is kept until the next
renewal or the end, so that no call on it fails: calls have deadlines far shorter than
the life of a certificate.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import grpc

from core.errors import KeymixerError
from core.rpc.identity import Identity

log = logging.getLogger(__name__)

LoadIdentity = Callable[[], Identity]
OpenChannel = Callable[[Identity, ExitStack], grpc.Channel]

# A certificate that is due, and whose successor is not there yet.
_LOOK_AGAIN_S: Final = 1.0


@contextmanager
def renewing_channel(
    load: LoadIdentity,
    connect: OpenChannel,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[grpc.Channel]:
    """Give a channel whose certificate is renewed from what `load` reads."""
    newest = _Newest(load, connect, clock)
    try:
        newest.open()
        yield _Renewing(newest)
    finally:
        newest.close()


@dataclass(slots=True)
class _Newest:
    """The channel with the newest certificate, and the one before."""

    load: LoadIdentity
    connect: OpenChannel
    clock: Callable[[], datetime]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _identity: Identity | None = None
    _channel: grpc.Channel | None = None
    _open: list[ExitStack] = field(default_factory=list)
    _looked_s: float = 0.0
    # Counts the channels, so that what is made of one is made anew for the next.
    generation: int = 0

    def open(self) -> None:
        """Open the first channel; what is wrong with the identity is raised."""
        self._use(self.load())

    def channel(self) -> tuple[int, grpc.Channel]:
        """The channel for a new call, and its number."""
        with self._lock:
            if self._due():
                self._renew()
            assert self._channel is not None  # noqa: S101 - opened by `open`
            return self.generation, self._channel

    def close(self) -> None:
        """Close every channel."""
        while self._open:
            self._open.pop().close()

    def _due(self) -> bool:
        due = self._identity is not None and self.clock() >= self._identity.renew_at
        return due and time.monotonic() - self._looked_s >= _LOOK_AGAIN_S

    def _renew(self) -> None:
        self._looked_s = time.monotonic()
        try:
            identity = self.load()
        except KeymixerError as error:
            # It may be half written; the one in use is good for a while.
            facts = {"kind": error.kind, "why": str(error)}
            log.warning("the renewed certificate cannot be read", extra=facts)
            return
        if self._identity is None or identity.certificate != self._identity.certificate:
            self._use(identity)

    def _use(self, identity: Identity) -> None:
        stack = ExitStack()
        self._channel = self.connect(identity, stack)
        self._identity = identity
        self._open.append(stack)
        self.generation += 1
        while len(self._open) > 2:  # noqa: PLR2004 - the newest, and the one before
            self._open.pop(0).close()


class _Renewing(grpc.Channel):
    """Looks up the newest channel at each call."""

    def __init__(self, newest: _Newest) -> None:
        self._newest = newest

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self._newest, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self._newest, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _Method(self._newest, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _Method(self._newest, "stream_stream", args, options)

    def subscribe(self, callback: Any, try_to_connect: bool | None = None) -> None:
        raise NotImplementedError

    def unsubscribe(self, callback: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._newest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Method:
    """One method on whichever channel is the newest."""

    newest: _Newest
    shape: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    _made: tuple[int, Any] = (0, None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._now()(*args, **options)

    def with_call(self, *args: Any, **options: Any) -> Any:
        """As gRPC has it."""
        return self._now().with_call(*args, **options)

    def future(self, *args: Any, **options: Any) -> Any:
        """As gRPC has it."""
        return self._now().future(*args, **options)

    def _now(self) -> Any:
        generation, channel = self.newest.channel()
        if self._made[0] != generation:
            made = getattr(channel, self.shape)(*self.args, **self.options)
            self._made = (generation, made)
        return self._made[1]

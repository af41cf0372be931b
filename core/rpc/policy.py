"""Who may call what: a table, and the guard that refuses everything else."""

# gRPC's handlers are generic in their type stubs, but not when they run.
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from threading import BoundedSemaphore, Timer
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import grpc

from core.errors import Conflict, Exhausted, NotAllowedError, Refused
from core.rpc.errors import rpc_errors
from core.rpc.identity import OPERATOR, ROLES, SpiffeId, caller_of, claimed_id
from core.rpc.messages import each_read, leniently, require_read

log = logging.getLogger(__name__)

# Full method name, `/package.Service/Method`, to the roles that may call it.
Policy: TypeAlias = Mapping[str, frozenset[str]]

ANYONE: Final = ROLES
_OPERATORS: Final = frozenset({OPERATOR})

# What every server offers beside its own table. Reflection is a stream, which holds a
# worker while it is open, so it is not for everybody.
BASE: Final[Policy] = MappingProxyType(
    {
        "/grpc.health.v1.Health/Check": ANYONE,
        # Its `Watch` is left out. The library's non-blocking one deadlocks the server
        # when a watcher goes away while the state is set (seen), and the blocking one
        # holds a worker for as long as somebody watches. Poll `Check` instead.
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _OPERATORS,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _OPERATORS,
    }
)

_Door: TypeAlias = Callable[[grpc.ServicerContext], AbstractContextManager[None]]
_Behaviour: TypeAlias = Callable[..., Any]

_caller: ContextVar[SpiffeId] = ContextVar("caller")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused: who asked (empty if unknown), for what, and why not."""

    caller: str
    method: str
    kind: str
    # How many before this one nobody could be told of; see `core.rpc.refusals`.
    missed: int = 0


class TooManyStreamsError(Exhausted):
    """As many streams are open as a server keeps workers for."""

    hint = "wait until a stream, such as an upload, has ended and try again"


def current_caller() -> SpiffeId:
    """Return who makes the call that this thread serves."""
    caller = _caller.get(None)
    if caller is None:
        raise NotAllowedError("nobody is calling: the guard has not run")
    return caller


@contextmanager
def acting_as(caller: SpiffeId) -> Iterator[None]:
    """Make `caller` the current caller, for code that is called without gRPC."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def authorise(policy: Policy, method: str, caller: SpiffeId) -> None:
    """Raise `NotAllowedError` unless the table lets the caller's role in."""
    if caller.role not in policy.get(method, frozenset()):
        raise NotAllowedError(f"{method} is not for {caller}")


class Guard(grpc.ServerInterceptor):
    """Let through only what the table allows, and translate every error.

    gRPC shows an interceptor the method alone, so the handler it returns is wrapped:
    the caller's certificate is seen there, before any of the service's code runs.

    Args:
        policy: who may call what; `BASE` is added.
        federation: the trust domain every caller must belong to.
        on_refusal: told of every `Refused` and every `Conflict` (a key that is not
            active, a model that is not granted), be it ours or the service's.
        max_stream_s: a stream is cancelled after this time, so that a caller who sends
            or reads nothing cannot hold a worker for ever.
        max_streams: so many may be open at once; one more is refused at once, so that
            streams never take all workers from the short calls.
        admit: a last check of the caller on every call, such as `is it revoked?`;
            raises a `KeymixerError` to refuse.
    """

    def __init__(
        self,
        policy: Policy,
        federation: str,
        *,
        on_refusal: Callable[[Refusal], None],
        max_stream_s: float,
        max_streams: int,
        admit: Callable[[SpiffeId], None] | None = None,
    ) -> None:
        self._policy = {**policy, **BASE}
        self._federation = federation
        self._on_refusal = on_refusal
        self._max_stream_s = max_stream_s
        self._streams = BoundedSemaphore(max_streams)
        self._admit = admit

    def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        streams = handler.request_streaming or handler.response_streaming
        door: _Door = partial(self._door, handler_call_details.method, streams)
        if streams:
            door = partial(_hurried, door, self._max_stream_s)
        return _wrapped(handler, door)

    @contextmanager
    def _door(
        self, method: str, streams: bool, context: grpc.ServicerContext
    ) -> Iterator[None]:
        try:
            with rpc_errors(context, method):
                self._enter(method, context)
                with self._stream() if streams else nullcontext():
                    yield
        except Exception as abort:
            # `context.abort` raised while the cause was being handled.
            cause = abort.__context__
            if isinstance(cause, Refused | Conflict):
                self._on_refusal(Refusal(claimed_id(context), method, cause.kind))
            raise

    @contextmanager
    def _stream(self) -> Iterator[None]:
        if not self._streams.acquire(blocking=False):
            raise TooManyStreamsError("as many streams as may be are open")
        try:
            yield
        finally:
            self._streams.release()

    def _enter(self, method: str, context: grpc.ServicerContext) -> None:
        caller = caller_of(context, self._federation)
        authorise(self._policy, method, caller)
        if self._admit is not None:
            self._admit(caller)
        # Each call has a context of its own in gRPC: there is nothing to reset.
        _caller.set(caller)


@contextmanager
def _hurried(
    door: _Door, seconds: float, context: grpc.ServicerContext
) -> Iterator[None]:
    timer = Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        with door(context):
            yield
    finally:
        timer.cancel()


def _wrapped(
    handler: grpc.RpcMethodHandler[Any, Any], door: _Door
) -> grpc.RpcMethodHandler[Any, Any]:
    if handler.request_streaming and handler.response_streaming:
        kind, build = handler.stream_stream, grpc.stream_stream_rpc_method_handler
    elif handler.request_streaming:
        kind, build = handler.stream_unary, grpc.stream_unary_rpc_method_handler
    elif handler.response_streaming:
        kind, build = handler.unary_stream, grpc.unary_stream_rpc_method_handler
    else:
        kind, build = handler.unary_unary, grpc.unary_unary_rpc_method_handler
    return build(
        _behind(
            kind,
            door,
            each_read if handler.request_streaming else require_read,
            streaming=handler.response_streaming,
        ),
        leniently(handler.request_deserializer),
        handler.response_serializer,
    )


def _behind(
    behaviour: Any, door: _Door, read: Callable[[Any], Any], *, streaming: bool
) -> _Behaviour:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        with door(context):
            return behaviour(read(request), context)

    def answers(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with door(context):
            yield from behaviour(read(request), context)

    return answers if streaming else answer

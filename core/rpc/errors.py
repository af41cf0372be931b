"""Our errors to gRPC statuses on the server, and back again on the client."""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, NoReturn, Protocol

import grpc
from grpc import StatusCode

from core.errors import (
    Conflict,
    Exhausted,
    InvalidInput,
    KeymixerError,
    NotFound,
    PeerUnavailable,
    Refused,
    TooLargeError,
    Unavailable,
    WrongFederationError,
)
from core.rpc.identity import ExpiredCertificateError
from core.rpc.patience import PUSHBACK

log = logging.getLogger(__name__)

STATUS: Final[Mapping[type[KeymixerError], StatusCode]] = MappingProxyType(
    {
        InvalidInput: StatusCode.INVALID_ARGUMENT,
        WrongFederationError: StatusCode.UNAUTHENTICATED,
        ExpiredCertificateError: StatusCode.UNAUTHENTICATED,
        Refused: StatusCode.PERMISSION_DENIED,
        NotFound: StatusCode.NOT_FOUND,
        Conflict: StatusCode.FAILED_PRECONDITION,
        Exhausted: StatusCode.RESOURCE_EXHAUSTED,
        Unavailable: StatusCode.UNAVAILABLE,
        KeymixerError: StatusCode.INTERNAL,
    }
)
# A kind is in camel case: gRPC writes of itself `SERVER: Received message ...`.
_DETAILS = re.compile(r"(?P<kind>[A-Z][a-z][A-Za-z0-9]*)(?:: (?P<hint>[ -~]{0,500}))?")
# What gRPC writes when there is no connection, and what that means. First match wins.
_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Connection refused": "nobody listens at its address",
        "Hostname Verification Check failed": "another party answers at its address; "
        "check the address and the SPIFFE ID",
        "certificate has expired": "its certificate has expired; enrol it again",
        "CERTIFICATE_VERIFY_FAILED": "another authority signed its certificate; "
        "compare the ca.pem of both",
        "Socket closed": "it closed the connection; it is stopping, or refuses our "
        "certificate as expired or signed by another authority",
        "Connection reset": "it closed the connection; it is stopping, or refuses our "
        "certificate as expired or signed by another authority",
    }
)
_NOT_ALLOWED: Final = frozenset(
    {
        StatusCode.FAILED_PRECONDITION,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
    }
)
_LET_DOWN: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})


class RemoteError(KeymixerError):
    """A peer refused: it told the kind, the hint and the status, and nothing else."""

    def __init__(
        self, kind: str, hint: str, status: StatusCode, *, peer: str = "the peer"
    ) -> None:
        super().__init__(f"{peer} answers {kind}" + (f": {hint}" if hint else ""))
        self._kind = kind
        self.hint = hint
        self.status = status

    @property
    def kind(self) -> str:
        return self._kind


class RemoteRefusedError(RemoteError, Refused):
    """A peer answered that the caller, or the state of things, does not allow it."""


class RemoteUnavailableError(RemoteError, PeerUnavailable):
    """A peer answered that it cannot serve now, and why."""


class AbortContext(Protocol):
    """What of `grpc.ServicerContext` ends a call."""

    def abort(self, code: StatusCode, details: str) -> NoReturn: ...

    def set_trailing_metadata(
        self, metadata: tuple[tuple[str, str | bytes], ...], /
    ) -> None: ...


@contextmanager
def rpc_errors(context: AbortContext, method: str = "") -> Iterator[None]:
    """End the call with the status its error maps to.

    The caller learns `Kind: hint`, both constants of the class. The message stays in
    our log; gRPC itself would send the text of any exception over the wire.

    The guard wraps every method of a server in it, streams included; a service needs
    it only for its own sake, and may nest it.
    """
    try:
        yield
    except KeymixerError as error:
        fields = {"method": method, "kind": error.kind, "why": str(error)}
        log.warning("call refused", extra=fields)
        if (pause_s := retry_after_s(error)) is not None:
            context.set_trailing_metadata((_pushback(pause_s),))
        context.abort(status_of(error), details_of(error))
    except Exception as error:
        if _ended_by_grpc(error):
            raise
        log.exception("call failed", extra={"method": method})
        context.abort(StatusCode.INTERNAL, "Internal: see the log of the party asked")


def _pushback(seconds: float) -> tuple[str, str]:
    """What asks a client to wait, as gRPC's retries (its proposal A6) have it."""
    return PUSHBACK, str(max(1, math.ceil(seconds * 1000)))


def status_of(error: KeymixerError) -> StatusCode:
    """The status of the nearest listed class; a peer's answer keeps its own."""
    if isinstance(error, RemoteError):
        return error.status
    listed = (kind for kind in type(error).__mro__ if kind in STATUS)
    return STATUS[next(listed)]


def retry_after_s(error: KeymixerError) -> float | None:
    """The pause after which what was not begun may be asked again; None: unknown."""
    pause_s: float | None = getattr(error, "retry_after_s", None)
    return pause_s


def details_of(error: KeymixerError) -> str:
    return f"{error.kind}: {error.hint}" if error.hint else error.kind


@contextmanager
def remote_errors(peer: str) -> Iterator[None]:
    """Turn what gRPC raises in a client into `RemoteError` and `PeerUnavailable`.

    Args:
        peer: who was asked, for the message.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _translated(error, peer) from error


def remote_error(kind: str, hint: str, status: StatusCode, *, peer: str) -> RemoteError:
    """What a peer answered, by whose move it is next."""
    return _remote(status)(kind, hint, status, peer=peer)


def status_numbered(number: int) -> StatusCode:
    """The status of a number on the wire; one that does not exist is `UNKNOWN`."""
    found = (status for status in StatusCode if status.value[0] == number)
    return next(found, StatusCode.UNKNOWN)


def _translated(error: grpc.RpcError, peer: str) -> KeymixerError:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return PeerUnavailable(f"{peer} does not answer: {type(error).__name__}")
    status, details = error.code(), error.details() or ""
    said = _DETAILS.fullmatch(details)
    if said is not None:
        return remote_error(said["kind"], said["hint"] or "", status, peer=peer)
    if status in _LET_DOWN:
        return PeerUnavailable(f"{peer} {_why(status, details)}")
    return RemoteError(*_without_details(status, details), status, peer=peer)


def _remote(status: StatusCode) -> type[RemoteError]:
    if status in _LET_DOWN:
        return RemoteUnavailableError
    return RemoteRefusedError if status in _NOT_ALLOWED else RemoteError


def _why(status: StatusCode, details: str) -> str:
    if status is StatusCode.DEADLINE_EXCEEDED:
        return "did not answer in time"
    said = (advice for sign, advice in _ADVICE.items() if sign in details)
    return f"cannot be reached: {next(said, 'see what gRPC says')} ({details})"


def _without_details(status: StatusCode, details: str) -> tuple[str, str]:
    """Kind and hint of what gRPC itself refused, by the status alone."""
    if status is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return "TooLarge", TooLargeError.hint
    if status is StatusCode.RESOURCE_EXHAUSTED:
        return "Exhausted", "the party is busy; try again later"
    return status.name.title().replace("_", ""), ""


def _ended_by_grpc(error: Exception) -> bool:
    """Is this what `context.abort` raises, or reading from a caller who went away?

    Both are bare, without any text, so that nothing leaks if they are not ours.
    """
    return type(error) in {Exception, grpc.RpcError} and not error.args

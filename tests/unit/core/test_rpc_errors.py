"""One table turns our errors into statuses; a client reads them back."""

import logging
from typing import NoReturn

import grpc
import pytest
from grpc import StatusCode

from core import errors
from core.errors import (
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    PeerUnavailable,
    TooLargeError,
)
from core.rpc.errors import (
    RemoteError,
    RemoteUnavailableError,
    details_of,
    remote_errors,
    rpc_errors,
    status_of,
)
from core.rpc.identity import ExpiredCertificateError

SECRET_TEXT = "seed 0x1234"  # noqa: S105 -- a text that must not travel


class Context:
    """Ends a call as gRPC does: it notes the status and raises a bare exception."""

    def __init__(self) -> None:
        self.ended: list[tuple[StatusCode, str]] = []
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()

    def set_trailing_metadata(
        self, metadata: tuple[tuple[str, str | bytes], ...], /
    ) -> None:
        self.trailers = metadata

    def abort(self, code: StatusCode, details: str) -> NoReturn:
        self.ended.append((code, details))
        raise Exception  # noqa: TRY002 -- gRPC's own way


def every_error() -> list[type[KeymixerError]]:
    found: list[type[KeymixerError]] = [KeymixerError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_the_status_of_its_family(kind: type[KeymixerError]) -> None:
    """The families of `core.errors`, written down a second time by hand."""
    families = {
        errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
        errors.Refused: StatusCode.PERMISSION_DENIED,
        errors.NotFound: StatusCode.NOT_FOUND,
        errors.Conflict: StatusCode.FAILED_PRECONDITION,
        errors.Exhausted: StatusCode.RESOURCE_EXHAUSTED,
        errors.Unavailable: StatusCode.UNAVAILABLE,
    }
    expected = [code for family, code in families.items() if issubclass(kind, family)]
    if kind is errors.WrongFederationError:
        expected = [StatusCode.UNAUTHENTICATED]

    assert [status_of(kind("x"))] == (expected or [StatusCode.INTERNAL])


def test_an_error_of_a_package_takes_the_status_of_what_it_extends() -> None:
    class VaultSealedError(errors.StorageError):
        pass

    assert status_of(VaultSealedError("x")) is StatusCode.UNAVAILABLE
    assert status_of(ExpiredCertificateError("x")) is StatusCode.UNAUTHENTICATED


def test_details_are_kind_and_hint_only() -> None:
    class BareError(KeymixerError):
        pass

    assert details_of(NotFound(SECRET_TEXT)) == f"NotFound: {NotFound.hint}"
    assert details_of(BareError(SECRET_TEXT)) == "Bare"


def test_a_call_without_error_is_left_alone() -> None:
    context = Context()
    with rpc_errors(context):
        pass

    assert context.ended == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (KeyRefusedError(SECRET_TEXT), StatusCode.FAILED_PRECONDITION, "KeyRefused"),
        (ValueError(SECRET_TEXT), StatusCode.INTERNAL, "Internal"),
        (KeyError(SECRET_TEXT), StatusCode.INTERNAL, "Internal"),
        (Exception(SECRET_TEXT), StatusCode.INTERNAL, "Internal"),
        (grpc.RpcError(SECRET_TEXT), StatusCode.INTERNAL, "Internal"),
    ],
)
def test_the_text_stays_in_the_log(
    error: Exception,
    status: StatusCode,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = Context()
    with pytest.raises(Exception, match=r"^$"), rpc_errors(context, "/x.Y/Z"):
        raise error

    ((got, details),) = context.ended
    (record,) = caplog.records
    assert status is got
    assert details.partition(":")[0] == kind
    assert "0x1234" not in details
    assert "/x.Y/Z" in vars(record).values()
    assert "0x1234" in f"{record.exc_info}{vars(record).get('why')}"
    assert record.levelno >= logging.WARNING


def test_nested_translations_translate_once(caplog: pytest.LogCaptureFixture) -> None:
    context = Context()
    with (
        pytest.raises(Exception, match=r"^$"),
        rpc_errors(context),
        rpc_errors(context),
    ):
        raise NotFound("x")

    assert [code for code, _ in context.ended] == [StatusCode.NOT_FOUND]
    assert len(caplog.records) == 1


def test_an_abort_of_the_service_s_own_is_left_alone() -> None:
    context = Context()
    with pytest.raises(Exception, match=r"^$"), rpc_errors(context):
        context.abort(StatusCode.ABORTED, "mine")

    assert context.ended == [(StatusCode.ABORTED, "mine")]


class Answer(grpc.RpcError, grpc.Call):
    """What gRPC raises in a client."""

    def __init__(self, code: StatusCode, details: str) -> None:
        super().__init__()
        self._code = code
        self._details = details

    def code(self) -> StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def initial_metadata(self) -> NoReturn:
        raise NotImplementedError

    def trailing_metadata(self) -> NoReturn:
        raise NotImplementedError

    def add_callback(self, callback: object) -> NoReturn:
        raise NotImplementedError

    def cancel(self) -> NoReturn:
        raise NotImplementedError

    def is_active(self) -> NoReturn:
        raise NotImplementedError

    def time_remaining(self) -> NoReturn:
        raise NotImplementedError


def translated(code: StatusCode, details: str) -> KeymixerError:
    with pytest.raises(KeymixerError) as caught, remote_errors("the vault"):
        raise Answer(code, details)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    return caught.value


@pytest.mark.parametrize(
    "error", [NotFound("x"), KeyRefusedError("x"), NotAllowedError("x")]
)
def test_what_one_side_says_the_other_side_reads(error: KeymixerError) -> None:
    came = translated(status_of(error), details_of(error))

    assert isinstance(came, RemoteError)
    assert (came.kind, came.hint, came.status) == (
        error.kind,
        error.hint,
        status_of(error),
    )
    assert str(came).startswith("the vault answers ")


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (StatusCode.CANCELLED, "CANCELLED", "Cancelled"),
        (StatusCode.UNIMPLEMENTED, "Method not found!", "Unimplemented"),
        (StatusCode.UNKNOWN, "", "Unknown"),
        (
            StatusCode.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (9 vs. 8)",
            "TooLarge",
        ),
        (
            StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Sent message larger than max (9 vs. 8)",
            "TooLarge",
        ),
        (
            StatusCode.RESOURCE_EXHAUSTED,
            "Concurrent RPC limit exceeded!",
            "Exhausted",
        ),
        (StatusCode.INTERNAL, "NotFound: \x1b[31mred", "Internal"),
    ],
)
def test_what_grpc_itself_says_is_told_from_what_we_say(
    code: StatusCode, details: str, kind: str
) -> None:
    came = translated(code, details)

    assert isinstance(came, RemoteError)
    assert (came.kind, came.status) == (kind, code)
    assert details not in came.hint or not details


def test_too_large_has_the_hint_of_its_error() -> None:
    came = translated(StatusCode.RESOURCE_EXHAUSTED, "x larger than max y")

    assert came.hint == TooLargeError.hint


@pytest.mark.parametrize(
    ("code", "details", "says"),
    [
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "in time"),
        (StatusCode.UNAVAILABLE, "x: Connection refused", "nobody listens"),
        (StatusCode.UNAVAILABLE, "y: Socket closed", "our certificate"),
        (
            StatusCode.UNAVAILABLE,
            "CERTIFICATE_VERIFY_FAILED: certificate has expired",
            "has expired",
        ),
        (StatusCode.UNAVAILABLE, "something new", "something new"),
    ],
)
def test_a_peer_that_is_away_is_unavailable(
    code: StatusCode, details: str, says: str
) -> None:
    came = translated(code, details)

    assert type(came) is PeerUnavailable
    assert says in str(came)
    assert str(came).startswith("the vault ")


def test_a_peer_that_says_why_it_cannot_serve_is_both() -> None:
    came = translated(StatusCode.UNAVAILABLE, "AuditUnavailable: try again")

    assert isinstance(came, RemoteUnavailableError)
    assert isinstance(came, PeerUnavailable)
    assert (came.kind, came.hint) == ("AuditUnavailable", "try again")
    assert status_of(came) is StatusCode.UNAVAILABLE


def test_other_errors_pass_through() -> None:
    with pytest.raises(ValueError, match="mine"), remote_errors("the vault"):
        raise ValueError("mine")


@pytest.mark.parametrize(("seconds", "said"), [(1.5, "1500"), (0.0001, "1")])
def test_what_may_be_tried_again_says_after_what_pause(
    seconds: float, said: str
) -> None:
    context = Context()
    with pytest.raises(Exception, match=r"^$"), rpc_errors(context):
        raise errors.Exhausted("too many", seconds)

    assert context.trailers == (("grpc-retry-pushback-ms", said),)


def test_what_has_no_pause_asks_for_none() -> None:
    """A client would take any as leave to try again."""
    context = Context()
    with pytest.raises(Exception, match=r"^$"), rpc_errors(context):
        raise errors.TooLargeError("too large")

    assert context.trailers == ()

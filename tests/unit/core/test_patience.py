"""What is made again, and when: only what was certainly not carried out."""

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from core.rpc.patience import PUSHBACK, Patience

CALM = Patience(draw=lambda: 1.0)
NOT_SENT = "failed to connect to all addresses; last error: Connection refused"


def ended(
    code: StatusCode, details: str = "", pushback: str | None = None
) -> AioRpcError:
    """A call that ended badly, as gRPC shows it."""
    said = () if pushback is None else ((PUSHBACK, pushback),)
    return AioRpcError(code, Metadata(), Metadata(*said), details)


def test_what_was_never_sent_is_sent_again_after_ever_longer_pauses() -> None:
    away = ended(StatusCode.UNAVAILABLE, NOT_SENT)

    assert [0.1, 0.2, 0.4, 0.8, None] == [
        CALM.pause_s(away, tried, 60.0) for tried in range(1, 6)
    ]


def test_two_callers_do_not_come_back_at_the_same_time() -> None:
    away = ended(StatusCode.UNAVAILABLE, NOT_SENT)
    early, late = Patience(draw=lambda: 0.0), Patience(draw=lambda: 1.0)

    assert early.pause_s(away, 1, 60.0) == 0.05
    assert late.pause_s(away, 1, 60.0) == 0.1


def test_a_servers_own_pause_is_kept_and_never_shortened() -> None:
    busy = ended(StatusCode.RESOURCE_EXHAUSTED, "Busy: wait", "400")

    assert Patience(draw=lambda: 0.0).pause_s(busy, 1, 60.0) == 0.4
    assert CALM.pause_s(busy, 1, 60.0) == pytest.approx(0.5)
    assert CALM.pause_s(busy, 1, 0.3) is None


@pytest.mark.parametrize(
    "error",
    [
        ended(StatusCode.RESOURCE_EXHAUSTED, "BudgetSpent: ask"),
        ended(StatusCode.RESOURCE_EXHAUSTED, "Busy: wait", "-1"),
        ended(StatusCode.RESOURCE_EXHAUSTED, "Busy: wait", "soon"),
        ended(StatusCode.UNAVAILABLE, "Socket closed"),
        ended(StatusCode.UNAVAILABLE, "AuditUnavailable: try again"),
        ended(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        ended(StatusCode.INTERNAL, NOT_SENT),
        ended(StatusCode.PERMISSION_DENIED, "NotAllowed"),
    ],
)
def test_what_may_have_been_answered_or_was_refused_is_not_sent_again(
    error: AioRpcError,
) -> None:
    assert CALM.pause_s(error, 1, 60.0) is None


def test_a_broken_connection_is_tried_again_if_the_caller_says_so() -> None:
    broken = ended(StatusCode.UNAVAILABLE, "Socket closed")
    refused = ended(StatusCode.PERMISSION_DENIED, "NotAllowed")
    brave = Patience(unsure=True, draw=lambda: 1.0)

    assert brave.pause_s(broken, 1, 60.0) == 0.1
    assert brave.pause_s(refused, 1, 60.0) is None


def test_another_server_is_tried_at_once() -> None:
    away = ended(StatusCode.UNAVAILABLE, NOT_SENT)

    assert CALM.pause_s(away, 1, 60.0, others=2) == 0.0

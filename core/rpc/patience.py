"""When a call may be made again, and after what pause; nothing here makes calls."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc import StatusCode

# What a server adds to a refusal if it has not begun; gRPC's own name for it.
PUSHBACK: Final = "grpc-retry-pushback-ms"
# What gRPC writes of a call that was never sent.
_NOT_SENT: Final = "failed to connect to all addresses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long a caller tries; all of it within the call's deadline.

    A call is made again only if it was certainly not carried out: it was never sent,
    or the server says so by a pause it asks for. With `unsure` it is also made again
    when the connection broke and nobody knows: the request must then bring what the
    other side knows it by.
    """

    attempts: int = 5
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0
    unsure: bool = False
    draw: Callable[[], float] = random.random

    def pause_s(
        self, error: grpc.RpcError, tried: int, left_s: float, *, others: int = 0
    ) -> float | None:
        """The pause before the next attempt, or `None`: there is to be none.

        Args:
            error: how the last attempt ended.
            tried: how many attempts there were.
            left_s: until the deadline.
            others: how many other servers were not tried yet; they need no pause.
        """
        asked_s = asked_pause_s(error)
        if tried >= self.attempts + others:
            return None
        if asked_s is None and not self._safe(error):
            return None
        pause = 0.0 if others else self._backoff(tried, asked_s)
        return pause if pause < left_s else None

    def _safe(self, error: grpc.RpcError) -> bool:
        return not_sent(error) or (self.unsure and unavailable(error))

    def _backoff(self, tried: int, asked_s: float | None) -> float:
        """Twice as long each time, and never the same for two callers."""
        if asked_s is not None:
            return asked_s * (1 + 0.25 * self.draw())
        longest = min(self.first_pause_s * 2.0 ** (tried - 1), self.longest_pause_s)
        return longest * (0.5 + 0.5 * self.draw())


def asked_pause_s(error: grpc.RpcError) -> float | None:
    """The pause a server asks for; `None`: it asks for none, or says never again."""
    known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    trailers: Any = error.trailing_metadata() if known else ()
    said = dict(tuple(each) for each in trailers or ()).get(PUSHBACK, "")
    text = said if isinstance(said, str) else ""
    return int(text) / 1000 if text.isascii() and text.isdecimal() else None


def not_sent(error: grpc.RpcError) -> bool:
    """Whether there was no connection to send the call over."""
    return unavailable(error) and _NOT_SENT in (_details(error) or "")


def unavailable(error: grpc.RpcError) -> bool:
    """Whether the server, or the way to it, is away."""
    known = isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    return known and error.code() is StatusCode.UNAVAILABLE


def _details(error: Any) -> str | None:
    details: str | None = error.details()
    return details

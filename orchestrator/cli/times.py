"""Moments and durations for the eye; in the registry, milliseconds."""

import time
from datetime import UTC, datetime
from typing import Final

from core.duration import show_duration

_MS: Final = 1000


def now_ms() -> int:
    """The time now."""
    return round(time.time() * _MS)


def when(at_ms: int) -> str:
    """A moment, in UTC; empty for 0, which says that there is none."""
    if not at_ms:
        return ""
    moment = datetime.fromtimestamp(at_ms / _MS, tz=UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def since(at_ms: int, now: int) -> str:
    """How long ago a moment was, such as `3d 4h`."""
    return show_duration(max(0, now - at_ms) / _MS)


def until(at_ms: int, now: int) -> str:
    """How long until a moment, such as `in 6d 23h`; `now` if it is past."""
    return f"in {show_duration((at_ms - now) / _MS)}" if at_ms > now else "now"

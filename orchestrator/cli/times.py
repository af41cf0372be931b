"""Moments and durations for the eye; in the registry, milliseconds."""

import time
from datetime import UTC, datetime
from typing import Final

from core.duration import parse_duration, show_duration
from core.errors import ConfigurationError

_MS: Final = 1000
_BASIC_DATE_DIGITS: Final = 8


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


def moment_ms(text: str, now: int) -> int:
    """A moment in milliseconds since the epoch, as a person writes it.

    Args:
        text: An ISO 8601 date or time, UTC unless it says otherwise, or a duration ago
            such as `2h`.
        now: The time now, in milliseconds.

    Raises:
        ConfigurationError: it is neither, or before 1970.
    """
    found = _written(text.strip(), now)
    if found is None or found < 0:
        raise ConfigurationError(
            f"{text!r:.40}: expected a time such as 2026-01-31T12:00:00Z, or a "
            "duration ago such as 2h"
        )
    return found


def _written(text: str, now: int) -> int | None:
    if text.isdigit() and len(text) != _BASIC_DATE_DIGITS:
        # A bare number could be seconds ago, or a year.
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _ago(text, now)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * _MS)


def _ago(text: str, now: int) -> int | None:
    try:
        return now - round(parse_duration(text) * _MS)
    except ConfigurationError:
        return None

"""The days and months, in UTC, that budgets are for; times are milliseconds."""

from datetime import UTC, datetime, timedelta
from typing import Final

from core.errors import InvalidInput
from orchestrator.registry.lifecycle import Period

# So long after its first moment every period is over, and the next one is not.
_BEYOND: Final = {Period.DAY: timedelta(days=1), Period.MONTH: timedelta(days=31)}


def read(word: str) -> Period:
    """The period of that name; an empty one is `total`."""
    try:
        return Period(word or Period.TOTAL)
    except ValueError:
        raise InvalidInput(f"period: expected one of {', '.join(Period)}") from None


def start_ms(period: Period, now_ms: int) -> int:
    """When the period that `now_ms` is in began; 0: there is only one."""
    return 0 if period is Period.TOTAL else _ms(_first_moment(period, now_ms))


def end_ms(period: Period, now_ms: int) -> int:
    """When the next period begins; 0: never."""
    if period is Period.TOTAL:
        return 0
    beyond = _first_moment(period, now_ms) + _BEYOND[period]
    return start_ms(period, _ms(beyond))


def _first_moment(period: Period, now_ms: int) -> datetime:
    now = datetime.fromtimestamp(now_ms // 1000, tz=UTC)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day.replace(day=1) if period is Period.MONTH else day


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000

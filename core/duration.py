"""Durations as people write them: `90s`, `10m`, `12h`, `30d`."""

import re
from typing import Final

from core.errors import ConfigurationError

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_FORM: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw]?)")


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is seconds.

    Raises:
        ConfigurationError: it is not a number and one of `s m h d w`.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"{text!r:.40}: expected a duration such as 90s, 10m, 12h or 30d"
        )
    number, unit = found.groups()
    return float(number) * _UNITS[unit or "s"]


def show_duration(seconds: float) -> str:
    """Return the duration in its two largest units, such as `3d 4h` or `12s`."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return " ".join(part for part in parts[:2] if part) or "0s"

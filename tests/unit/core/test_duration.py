"""Durations as people write them, and as they are shown."""

import pytest

from core.duration import parse_duration, show_duration
from core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("10m", 600),
        ("12h", 43_200),
        (" 30d ", 2_592_000),
        ("2w", 1_209_600),
    ],
)
def test_a_number_and_a_unit_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "-1d", "1y", "1d 2h", "1e3", "nan", "inf", "\u0661d", "9" * 11]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (12, "12s"),
        (60, "1m"),
        (75, "1m 15s"),
        (3600, "1h"),
        (3605, "1h"),
        (86_400 + 3 * 3600 + 59, "1d 3h"),
        (30 * 86_400, "30d"),
    ],
)
def test_the_two_largest_units_are_shown(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text

"""What a soak may end with, and what it may not."""

from typing import Any

import pytest

from tests.soak.report import WATCHED, SoakFailed, require_sound

GROWN = {name: {"late_over_early": 1.06} for name in WATCHED}


def report(**found: Any) -> dict[str, Any]:
    memory = {name: {"late_over_early": 1.04} for name in WATCHED}
    return {"surprises": 0, "told": [], "crowded": {}, "memory": memory, **found}


def test_a_flood_may_leave_others_no_room_now_and_then() -> None:
    require_sound(report(crowded={"mixed sizes": 0.01}), growth=0.05)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"crowded": {"mixed sizes": 0.011}}, "no room for 1.1%"),
        ({"surprises": 1}, "1 surprises"),
        ({"memory": GROWN}, "grew to 1.06"),
    ],
)
def test_more_than_that_is_a_failure(found: dict[str, Any], why: str) -> None:
    with pytest.raises(SoakFailed, match=why):
        require_sound(report(**found), growth=0.05)

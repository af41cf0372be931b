"""What a soak may end with, and what it may not."""

import os
from typing import Any

import pytest

from tests.soak.memory import Look, Memory
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


def test_what_is_held_at_rest_is_not_counted_as_under_load() -> None:
    looks = [
        Look(float(at), at < 4, {"one": 9.0 if at < 4 else 1.0}, {"one": 1})
        for at in range(8)
    ]
    memory = Memory({"one": 0}, looks, [looks[5], looks[7]])

    figures = memory.figures()["one"]

    assert (figures["early_mib"], figures["late_mib"]) == (9.0, 9.0)
    assert (figures["at_rest_mib"], figures["most_mib"]) == ([1.0, 1.0], 9.0)


def test_a_rest_is_looked_at_when_it_ends() -> None:
    memory = Memory({"this": os.getpid()}, [Look(0.0, True, {}, {})])

    with memory.resting():
        assert not memory.rests

    (rest,) = memory.rests
    assert not rest.loaded
    assert rest.resident["this"] > 1

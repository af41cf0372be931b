"""What keys that change cost: no fault in a good story, each planted one found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.console import FAILED, exit_code
from orchestrator.registry.lifecycle import KeyState
from orchestrator.simulation.lives import Stay, lives, successions
from orchestrator.simulation.requests import Released
from orchestrator.simulation.rotation import Order, failures, served_after_end
from orchestrator.simulation.rotation_figures import (
    RotationBroken,
    measure,
    require_unbroken,
)
from tests.unit.orchestrator.story import Story, good_story, plain_logits


@pytest.fixture
def story() -> Story:
    return good_story()


def figures_of(story: Story) -> dict[str, Any]:
    return measure(story.told())


def broken(story: Story) -> str:
    """What the run would end with."""
    with pytest.raises(RotationBroken) as caught:
        require_unbroken(figures_of(story))
    return str(caught.value)


# --- without a fault ---


def test_a_rotation_without_fault_is_measured_as_one(story: Story) -> None:
    """40 requests each; ben is refused from 3000 on, which is as it must be."""
    figures = figures_of(story)
    expected = {
        "rotations": 2,
        "rotations_ordered": 2,
        "requests": 80,
        "failed_requests": 0,
        "refused_requests": 11,
        "misrouted": 0,
        "unrecorded": 0,
        "old_version_served_after_retire": 0,
        "destroyed": 2,
        "failures": {},
    }

    require_unbroken(figures)
    assert expected == {name: figures[name] for name in expected}


def test_requests_are_counted_from_the_first_order_to_the_last_change(
    story: Story,
) -> None:
    """From 1000 to 3000: those that began at 1010, 1110, ..., 2910, of both owners."""
    assert 2 * 20 == figures_of(story)["requests_during"]


def test_how_soon_a_revoked_owner_is_refused_counts_from_the_acknowledgement(
    story: Story,
) -> None:
    """Acknowledged at 3010; the refusal that came after it ended at 3050."""
    figures = figures_of(story)

    assert (40.0, 0.0) == (
        figures["refused_after_revoke_ms"],
        figures["answered_after_revoke_ms"],
    )


def test_latency_is_told_during_rotations_and_outside(story: Story) -> None:
    """Version 2 was drawn at 1100, version 1 refused from 2000."""
    story.answer(4200, "anna", 2, started_ms=3700.0)
    latency = figures_of(story)["latency_ms"]

    # Those that ended at 1150, 1250, ..., 1950 of each owner.
    assert {"requests": 2 * 9, "p50": 40.0, "p99": 40.0} == latency["during"]
    assert latency["outside"]["requests"] == 69 + 1 - 18
    assert latency["outside"]["p50"] == 40.0
    assert 40.0 < latency["outside"]["p99"] <= 500.0


def test_each_owner_is_told_apart(story: Story) -> None:
    anna, ben = figures_of(story)["owners"]

    assert ("anna", 40, 0, [1, 2], []) == (
        *(anna["owner"], anna["answered"], anna["refused"]),
        *(anna["key_versions"], anna["barred"]),
    )
    assert ("ben", 29, 11, 0, ["revoke"]) == (
        *(ben["owner"], ben["answered"], ben["refused"]),
        *(ben["failed"], ben["barred"]),
    )


def test_a_request_that_its_successor_answered_is_no_failure(story: Story) -> None:
    story.answer(4050, "anna", 2, sent=2)
    figures = figures_of(story)

    assert figures["failed_requests"] == 0
    assert figures["owners"][0]["sent_again"] == 1


def test_the_rate_counts_every_request_in_the_half_second_it_ended_in(
    story: Story,
) -> None:
    """The first began at 110: bins are 110 to 610, and so on, five of each owner."""
    rate = figures_of(story)["rate"]

    assert [10, 10, 10] == rate["answered"][:3]
    assert (69, 11, 0) == tuple(
        sum(rate[outcome]) for outcome in ("answered", "refused", "failed")
    )
    assert len(rate["answered"]) == len(rate["refused"]) == len(rate["failed"])


def test_nobody_asked_and_there_is_nothing_to_measure() -> None:
    assert {} == measure(Story().told())
    require_unbroken({})


def test_every_figure_is_documented(story: Story) -> None:
    """In `docs/report.md`, by its name."""
    documented = Path("docs/report.md").read_text()
    figures = figures_of(story)
    parts = [figures, figures["owners"][0], figures["lives"][0], figures["refusals"][0]]
    names = {name for part in parts for name in part}

    assert set() == {name for name in names if f"`{name}`" not in documented}


# --- the lives of key versions ---


def test_a_life_is_the_states_that_the_log_tells(story: Story) -> None:
    first, second = (life for life in lives(story.bodies) if life.owner == "anna")

    assert (
        Stay(KeyState.PRE_ACTIVE, -900, -800),
        Stay(KeyState.ACTIVE, -800, 1500),
        Stay(KeyState.RETIRING, 1500, 2000),
        Stay(KeyState.DESTROY_SCHEDULED, 2000, 2500),
        Stay(KeyState.DESTROYED, 2500, None),
    ) == first.stays
    assert (1500, 2000) == (second.live_ms, first.ended_ms)
    assert second.ended_ms is None


def test_a_record_that_leaves_the_state_as_it_was_begins_nothing(story: Story) -> None:
    """`issued.live` says the state of its key version too."""
    story.record(4000, "issued.live", "anna", 2, state="active")

    assert lives(good_story().bodies) == lives(story.bodies)


def test_a_key_drawn_after_the_one_before_had_ended_is_no_rotation(
    story: Story,
) -> None:
    story.state(5000, "ben", 3, "pre_active")
    story.state(5100, "ben", 3, "active")

    assert [2, 2] == [s.name.version for s in successions(lives(story.bodies), 0)]


def test_what_is_drawn_is_cut_to_the_time_in_which_owners_asked(story: Story) -> None:
    """The first request began at 110; seconds since then."""
    first, *_ = figures_of(story)["lives"]

    assert {"state": "active", "from_s": 0.0, "to_s": 1.39} == first["stays"][0]
    assert first["stays"][-1]["to_s"] == figures_of(story)["seconds"] == 3.94


# --- planted faults ---


def test_a_refusal_in_good_standing_is_a_failure(story: Story) -> None:
    story.refusal(2550, "anna")

    assert figures_of(story)["failures"] == {"KeyRefused": 1}
    assert broken(story) == "failed_requests is 1, not 0"


def test_a_request_that_nobody_answered_is_a_failure_even_of_a_revoked_owner(
    story: Story,
) -> None:
    story.refusal(3950, "ben", outcome="failed", kind="PeerUnavailable")

    assert figures_of(story)["failures"] == {"PeerUnavailable": 1}
    assert "failed_requests is 1" in broken(story)


def test_a_refusal_just_before_the_revocation_was_ordered_is_a_failure(
    story: Story,
) -> None:
    story.refusal(2999, "ben")

    assert "failed_requests is 1" in broken(story)


@pytest.mark.parametrize(("at", "failed"), [(1900, 1), (2005, 0), (3039, 0), (4100, 1)])
def test_a_suspended_owner_may_be_refused_until_everybody_knows_it_is_resumed(
    at: int, failed: int
) -> None:
    """Suspended from 2000; the resumption is acknowledged at 3010, a second to settle.

    A request of 40 ms is excused if some part of it was between 2000 and 4010.
    """
    story = good_story()
    story.order(2000, "suspend", "anna")
    story.order(3000, "resume", "anna")
    story.refusal(at, "anna")

    assert failed == len(failures(story.told(), "anna"))


def test_another_pictures_answer_is_misrouted(story: Story) -> None:
    """Of the same owner, and of the other one."""
    for owner in ("anna", "ben"):
        story.answer(2960, "anna", 2, first=0, logits=plain_logits(owner)[3:5])

    assert broken(story) == "misrouted is 2, not 0"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda logits: logits + np.float32(0.002),
        lambda logits: logits[:, ::-1],
        lambda logits: logits * np.float32("nan"),
        lambda logits: logits[:1],
        lambda logits: logits[:, :2],
    ],
    ids=["off by 0.002", "classes turned round", "NaN", "one missing", "a class short"],
)
def test_logits_that_are_not_the_plain_models_are_misrouted(
    story: Story, spoil: Any
) -> None:
    story.answer(2960, "anna", 2, first=2, logits=spoil(plain_logits("anna")[2:4]))

    assert "misrouted is 1" in broken(story)


def test_float32_rounding_is_not_misrouted(story: Story) -> None:
    near = plain_logits("anna")[2:4] + np.float32(1e-5)
    story.answer(2960, "anna", 2, first=2, logits=near)

    assert figures_of(story)["misrouted"] == 0


@pytest.mark.parametrize(
    "released",
    [
        (),
        (Released(9999, "anna-40", 2, 1),),
        (Released(0, "another", 2, 1),),
    ],
    ids=["no receipt", "another index", "another request"],
)
def test_an_answer_that_the_log_does_not_hold_is_found(
    story: Story, released: tuple[Released, ...]
) -> None:
    story.answer(4050, "anna", 2, released=released)

    assert broken(story) == "unrecorded is 1, not 0"


def test_two_answers_that_point_to_one_record_are_found(story: Story) -> None:
    twice = story.requests["anna"][-1].released
    story.answer(4050, "anna", 2, released=twice)

    assert "unrecorded is 1" in broken(story)


@pytest.mark.parametrize(
    ("version", "at"), [(1, 2100), (1, 2600)], ids=["after expiry", "after destruction"]
)
def test_an_answer_under_a_version_that_had_ended_is_found(
    version: int, at: int
) -> None:
    """The record comes last in the log, whatever its clock says."""
    story = good_story()
    story.answer(at, "anna", version)
    late = story.bodies[-1]["index"]

    assert [late] == served_after_end(story.bodies)
    assert "old_version_served_after_retire is 1" in broken(story)


def test_an_answer_of_a_retiring_version_counts_from_the_moment_it_was_to_be_refused(
    story: Story,
) -> None:
    """Also if the record of its expiry comes later: the moment was announced."""
    late = Story()
    late.state(0, "anna", 1, "active")
    late.state(100, "anna", 1, "retiring", retire_at_ms=200)
    late.answer(204, "anna", 1)
    late.answer(205, "anna", 1)
    late.state(300, "anna", 1, "destroy_scheduled")

    assert [3] == served_after_end(late.bodies)


def test_an_answer_under_a_suspended_or_an_unknown_version_is_found() -> None:
    story = Story()
    story.state(0, "anna", 1, "active")
    story.answer(100, "anna", 1)
    story.state(200, "anna", 1, "suspended")
    story.answer(300, "anna", 1)
    story.state(400, "anna", 1, "active")
    story.answer(500, "anna", 1)
    story.answer(600, "anna", 7)

    assert [3, 6] == served_after_end(story.bodies)


def test_a_refused_release_is_no_answer(story: Story) -> None:
    story.record(2600, "inference.refused", "anna", 1, request_id="anna-99")

    assert figures_of(story)["old_version_served_after_retire"] == 0


def test_an_answer_long_after_the_revocation_is_found(story: Story) -> None:
    """It came 1090 ms after the acknowledgement; refusals before it do not count."""
    story.answer(4100, "ben", 2)
    story.refusal(4200, "ben")
    figures = figures_of(story)

    assert (1190.0, 1090.0) == (
        figures["refused_after_revoke_ms"],
        figures["answered_after_revoke_ms"],
    )
    assert "ben was answered 1090 ms after revoke" in broken(story)


def test_a_revoked_owner_that_was_never_refused_is_found() -> None:
    story = good_story()
    story.requests["ben"] = [r for r in story.requests["ben"] if not r.kind]

    assert figures_of(story)["refused_after_revoke_ms"] is None
    assert broken(story) == "ben was not refused: revoke"


def test_a_suspended_owner_that_was_never_refused_is_found(story: Story) -> None:
    story.order(2100, "suspend", "anna")
    story.order(2300, "resume", "anna")

    assert broken(story) == "anna was not refused: suspend"


def test_a_rotation_that_reached_nobody_is_found(story: Story) -> None:
    story.order(3500, "rotate", rotations=2)

    assert broken(story) == "2 of 4 rotations reached the owners"


def test_a_rotation_that_a_policy_ordered_is_no_fault(story: Story) -> None:
    story.orders[0] = Order("rotate", "anna", 1000, 1010, 1)

    require_unbroken(figures_of(story))


def test_what_was_destroyed_after_the_last_request_is_not_counted(
    story: Story,
) -> None:
    story.state(9000, "ben", 2, "destroyed")

    assert figures_of(story)["destroyed"] == 2


def test_a_run_with_a_fault_does_not_end_well() -> None:
    error = RotationBroken("failed_requests is 1, not 0")

    assert (FAILED, "RotationBroken") == (exit_code(error), error.kind)
    assert "report.json" in error.hint

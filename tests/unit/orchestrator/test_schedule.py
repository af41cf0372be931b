"""Rotations that the policy asks for: when, why, and not twice."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.federation import RotationPolicy
from orchestrator.registry import store
from orchestrator.registry.models import Grant, KeyVersion
from orchestrator.workflows import schedule, undoing
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    ORCHESTRATOR_ID,
    Office,
    register_model,
)

KEY, BIRCH = "alder.cells", "birch.cells"
DAY_S = 24 * 3600.0


def set_policy(office: Office, overlap_s: float = 30.0, **rules: Any) -> None:
    changed = {
        "rotation": RotationPolicy.model_validate(rules),
        "rotation_overlap_s": overlap_s,
    }
    office.policies = office.policies.model_copy(update=changed)


def begun(office: Office) -> list[tuple[str, str]]:
    """Keys whose rotation the policy asked for, and why it did."""
    return [
        (str(entry.subject["key_id"]), str(entry.subject["because"]))
        for entry in office.entries("key.created")
        if "because" in entry.subject
    ]


def at(office: Office, text: str) -> None:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    office.clock.now_ms = round(moment.timestamp() * 1000)


def use(office: Office, images: int) -> None:
    with office.change() as change:
        store.key_version(change.session, KEY, 1).images_used = images


def test_without_a_policy_nothing_rotates_by_itself(office: Office) -> None:
    office.active_key()
    office.clock.pass_seconds(10_000 * DAY_S)
    office.settle()

    assert office.states() == {(KEY, 1): "active"}


def test_a_key_is_rotated_once_it_is_as_old_as_the_policy_says(office: Office) -> None:
    set_policy(office, max_age="30d")
    office.active_key()
    office.clock.pass_seconds(30 * DAY_S - 0.001)
    office.settle()
    assert begun(office) == []
    office.clock.pass_seconds(0.001)
    office.settle()

    assert begun(office) == [(KEY, "older than 30d")]
    assert office.states() == {(KEY, 1): "active", (KEY, 2): "pre_active"}
    (_, entry) = office.entries("key.created")
    assert (entry.actor, entry.subject["overlap_s"]) == (str(ORCHESTRATOR_ID), 30)


def test_a_rotation_under_way_is_not_begun_again(office: Office) -> None:
    set_policy(office, max_age="30d")
    office.active_key()
    office.clock.pass_seconds(30 * DAY_S)
    for _ in range(3):
        office.settle()
        office.clock.pass_seconds(60)

    assert len(begun(office)) == 1


def test_the_next_version_is_rotated_in_its_turn(office: Office) -> None:
    set_policy(office, max_age="30d")
    office.active_key()
    for version in (2, 3):
        office.clock.pass_seconds(30 * DAY_S)
        office.bring_into_use(KEY, version)

    assert len(begun(office)) == 2
    assert office.primaries() == [(KEY, 3)]


def test_a_key_is_rotated_once_it_has_answered_so_many_images(office: Office) -> None:
    set_policy(office, max_images=1000)
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    use(office, 999)
    office.settle()
    assert begun(office) == []
    use(office, 1000)
    office.settle()

    assert begun(office) == [(KEY, "1000 images or more")]


def test_a_key_is_rotated_daily_if_it_is_older_than_the_moment(office: Office) -> None:
    set_policy(office, daily_at="02:30")
    at(office, "2026-03-01T02:00:00")
    office.active_key(ALDER_ID)
    at(office, "2026-03-01T02:29:59")
    office.settle()
    assert begun(office) == []
    at(office, "2026-03-01T02:30:00")
    office.active_key(BIRCH_ID)
    office.bring_into_use(KEY, 2)
    at(office, "2026-03-02T02:29:59")
    office.settle()
    assert begun(office) == [(KEY, "daily at 02:30 UTC")]
    at(office, "2026-03-02T02:30:00")
    office.settle()

    assert {key for key, _ in begun(office)[1:]} == {KEY, BIRCH}


def test_before_the_moment_of_today_yesterdays_counts(office: Office) -> None:
    set_policy(office, daily_at="23:00")
    at(office, "2026-03-01T22:00:00")
    office.active_key()
    at(office, "2026-03-02T01:00:00")
    office.settle()

    assert begun(office) == [(KEY, "daily at 23:00 UTC")]


def test_keys_are_rotated_once_at_a_given_moment(office: Office) -> None:
    set_policy(office, at=["2026-03-01T02:00:00Z", "2026-05-01T02:00:00+02:00"])
    at(office, "2026-02-01T00:00:00")
    office.active_key()
    at(office, "2026-03-01T01:59:59")
    office.settle()
    assert begun(office) == []
    at(office, "2026-03-01T02:00:00")
    office.bring_into_use(KEY, 2)
    at(office, "2026-04-30T23:59:59")
    office.settle()
    assert len(begun(office)) == 1
    at(office, "2026-05-01T00:00:00")
    office.settle()

    assert [why for _, why in begun(office)] == [
        "at 2026-03-01T02:00:00+00:00",
        "at 2026-05-01T02:00:00+02:00",
    ]


def test_a_rotation_that_an_operator_gave_up_is_not_begun_again_at_once(
    office: Office,
) -> None:
    set_policy(office, max_age="30d", max_images=10)
    office.active_key()
    use(office, 10)
    office.clock.pass_seconds(30 * DAY_S)
    office.settle()
    with office.change() as change:
        job_id = office.open_job("rotate").id
        undoing.give_up(change, office.policies, job_id, "not now")
    office.settle()
    assert len(begun(office)) == 1
    office.clock.pass_seconds(30 * DAY_S)
    office.settle()

    assert len(begun(office)) == 2


def test_a_rotation_for_images_that_was_given_up_comes_again_an_hour_later(
    office: Office,
) -> None:
    """Whoever gave it up has time to see to the cause; the key is used ever more."""
    set_policy(office, max_images=10)
    office.active_key()
    use(office, 10)
    office.settle()
    with office.change() as change:
        job_id = office.open_job("rotate").id
        undoing.give_up(change, office.policies, job_id, "the owner is away")
    office.clock.pass_seconds(3599.999)
    office.settle()
    assert begun(office) == [(KEY, "10 images or more")]
    office.clock.pass_seconds(0.001)
    office.settle()

    assert begun(office) == [(KEY, "10 images or more")] * 2
    assert office.states()[KEY, 3] == "pre_active"


def test_a_rotation_for_images_that_waits_long_is_not_begun_again(
    office: Office,
) -> None:
    set_policy(office, max_images=10)
    office.active_key()
    use(office, 10)
    office.settle()
    office.clock.pass_seconds(30 * DAY_S)
    office.settle()

    assert begun(office) == [(KEY, "10 images or more")]


def test_a_clock_that_goes_back_holds_nothing_up(office: Office) -> None:
    """What is due and yet cannot be begun must not be looked for without end."""
    set_policy(office, max_images=10)
    office.active_key()
    use(office, 10)
    office.clock.pass_seconds(-3600)

    assert not schedule.begin_due(office.registry, office.policies)
    office.clock.pass_seconds(3600)
    assert schedule.begin_due(office.registry, office.policies)


def take_back_grant(office: Office) -> None:
    with office.change() as change:
        change.session.scalars(select(Grant)).one().revoked_at_ms = change.now_ms


@pytest.mark.parametrize(
    "hinder",
    [
        take_back_grant,
        lambda office: office.suspend(),
        lambda office: office.revoke(),
        lambda office: register_model(office, patch_size=8),
    ],
)
def test_a_key_that_cannot_be_rotated_is_left_alone(
    office: Office, hinder: Any
) -> None:
    set_policy(office, max_age="1d")
    office.active_key()
    hinder(office)
    office.clock.pass_seconds(DAY_S)
    office.settle()

    assert begun(office) == []


def test_many_keys_are_begun_some_at_a_time(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "AT_ONCE", 1)
    set_policy(office, max_age="1d")
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.clock.pass_seconds(DAY_S)
    office.settle()

    assert {key for key, _ in begun(office)} == {KEY, BIRCH}


def test_a_suspended_primary_with_a_younger_version_is_not_due(office: Office) -> None:
    """What is due is judged by the newest version, whatever became of it."""
    set_policy(office, max_age="1d")
    office.active_key()
    office.rotate()
    office.bring_into_use(KEY, 2)
    office.clock.pass_seconds(DAY_S)
    with office.change() as change:
        newest = change.session.scalars(
            select(KeyVersion).where(KeyVersion.version == 2)
        ).one()
        newest.created_at_ms = change.now_ms
    office.settle()

    assert begun(office) == []

"""Which keys a rotation takes, and why the others are left out."""

import math
from typing import Any

import pytest
from sqlalchemy import select

from core.errors import (
    Conflict,
    InvalidInput,
    KeyMismatchError,
    KeyRefusedError,
    NotAllowedError,
    NotGrantedError,
)
from orchestrator.registry.models import Grant
from orchestrator.workflows import keys, rotation
from orchestrator.workflows.rotation import Wish
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    PROVIDER_ID,
    Office,
    register_model,
)

KEY, BIRCH = "alder.cells", "birch.cells"
DAY_S = 24 * 3600.0


def take_back_grants(office: Office) -> None:
    with office.change() as change:
        for row in change.session.scalars(select(Grant)).all():
            row.revoked_at_ms = change.now_ms


def dry_run(office: Office, **more: Any) -> list[rotation.Rotation]:
    with office.change() as change:
        return rotation.rotate(
            change, office.policies, Wish(MODEL, 60.0, **more), dry_run=True
        )


def test_a_rotation_says_from_which_version_to_which(office: Office) -> None:
    office.active_key()
    office.clock.pass_seconds(5)
    (made,) = office.rotate()

    assert (made.key_id, made.from_version, made.to_version) == (KEY, 1, 2)
    assert (made.owner, made.left_out) == (str(ALDER_ID), "")
    assert (made.age_ms, made.images_used) == (5000, 0)
    assert made.job_id == office.entries("key.created")[-1].subject["job"]


def test_all_owners_keys_are_rotated_at_once(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    made = office.rotate(None)

    assert [(each.key_id, each.to_version) for each in made] == [(KEY, 2), (BIRCH, 2)]
    assert len({each.job_id for each in made}) == 2


def test_a_dry_run_says_the_same_and_does_nothing(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.suspend(BIRCH_ID)
    before = (office.kinds(), office.jobs())
    said = dry_run(office)

    assert (office.kinds(), office.jobs()) == before
    made = office.rotate(None)
    assert [(e.key_id, e.to_version, e.left_out) for e in said] == [
        (e.key_id, e.to_version, e.left_out) for e in made
    ]
    assert [each.job_id for each in said] == [0, 0]


def test_only_keys_of_an_age_are_rotated(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.clock.pass_seconds(DAY_S)
    office.active_key(BIRCH_ID)
    office.clock.pass_seconds(DAY_S)
    made = {each.key_id: each for each in office.rotate(None, older_than_s=1.5 * DAY_S)}

    assert made[KEY].left_out == ""
    assert made[BIRCH].left_out == "it is 1d old, not 1d 12h"
    assert made[BIRCH].to_version == 0


def test_one_owners_key_that_is_too_young_is_no_error(office: Office) -> None:
    office.active_key()
    (made,) = office.rotate(older_than_s=DAY_S)

    assert (made.left_out, made.job_id) == ("it is 0s old, not 1d", 0)


@pytest.mark.parametrize(
    ("hinder", "error"),
    [
        (lambda office: office.suspend(), KeyRefusedError),
        (lambda office: office.revoke(), KeyRefusedError),
        (lambda office: office.rotate(), Conflict),
        (take_back_grants, NotGrantedError),
        (lambda office: register_model(office, patch_size=8), KeyMismatchError),
    ],
)
def test_what_hinders_one_owner_is_an_error_and_of_many_left_out(
    office: Office, hinder: Any, error: type[Exception]
) -> None:
    office.active_key()
    hinder(office)
    with pytest.raises(error) as caught:
        office.rotate()
    (left_out,) = office.rotate(None)

    assert left_out.left_out == str(caught.value)
    assert (left_out.to_version, left_out.job_id) == (0, 0)


def test_an_owner_without_a_key_is_told_so(office: Office) -> None:
    with pytest.raises(NotGrantedError):
        office.rotate()
    office.grant()
    with pytest.raises(KeyRefusedError):
        office.rotate()

    assert office.rotate(None) == []


def test_an_expelled_owners_key_is_left_out(office: Office) -> None:
    office.active_key()
    with office.change() as change:
        keys.revoke_party(change, office.policies, str(ALDER_ID), "left")

    assert [each.left_out for each in office.rotate(None)] == ["the owner was revoked"]
    with pytest.raises(NotAllowedError):
        office.rotate()


def test_only_data_owners_have_keys_to_rotate(office: Office) -> None:
    with pytest.raises(NotAllowedError):
        office.rotate(PROVIDER_ID)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("field", ["overlap_s", "older_than_s"])
def test_a_time_without_an_end_is_refused(field: str, seconds: float) -> None:
    wanted: dict[str, Any] = {"model": MODEL, "overlap_s": 0.0} | {field: seconds}
    with pytest.raises(InvalidInput, match=field):
        Wish(**wanted)


def test_an_overlap_is_a_month_at_most() -> None:
    assert Wish(MODEL, overlap_s=30 * DAY_S)
    with pytest.raises(InvalidInput):
        Wish(MODEL, overlap_s=30 * DAY_S + 1)


def test_what_is_too_much_for_one_transaction_is_left_for_another(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "MOST_AT_ONCE", 1)
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)

    assert [each.to_version for each in office.rotate(None)] == [2, 0]
    first, second = office.rotate(None)
    assert "on its way" in first.left_out
    assert second.to_version == 2


def test_a_key_may_be_rotated_again_during_its_overlap(office: Office) -> None:
    """Both overlaps then end on their own time."""
    office.active_key()
    office.rotate(overlap_s=60.0)
    office.bring_into_use(KEY, 2)
    office.clock.pass_seconds(10)
    office.rotate(overlap_s=60.0)
    office.bring_into_use(KEY, 3)

    assert office.states() == {
        (KEY, 1): "retiring",
        (KEY, 2): "retiring",
        (KEY, 3): "active",
    }
    office.clock.pass_seconds(50)
    office.settle()
    assert office.states()[KEY, 1] == "destroyed"
    assert office.states()[KEY, 2] == "retiring"
    office.clock.pass_seconds(10)
    office.settle()
    assert office.states()[KEY, 2] == "destroyed"
    assert office.jobs(open_only=True) == []

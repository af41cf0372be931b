"""What an operator sets in motion, before any job has run."""

from contextlib import AbstractContextManager

import pytest
from sqlalchemy import select

from core.errors import (
    Conflict,
    InvalidInput,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    NotGrantedError,
)
from core.rpc.identity import SpiffeId
from orchestrator.registry import store
from orchestrator.registry.models import Grant
from orchestrator.workflows import keys
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    Office,
    spiffe,
)

ALDER = str(ALDER_ID)
KEY = "alder.cells"


def take_back_grant(office: Office) -> None:
    with office.change() as change:
        row = change.session.scalars(select(Grant)).one()
        row.revoked_at_ms = change.now_ms


def test_a_grant_is_recorded_once(office: Office) -> None:
    office.grant()
    office.grant()

    (entry,) = office.entries("model.granted")
    assert entry.subject == {"owner": ALDER, "model": MODEL}
    assert entry.actor == str(OPERATOR_ID)


def test_only_data_owners_are_granted_models(office: Office) -> None:
    with pytest.raises(NotAllowedError):
        office.grant(PROVIDER_ID)


def test_a_model_that_nobody_registered_is_not_granted(office: Office) -> None:
    with pytest.raises(NotFound), office.change() as change:
        keys.grant(change, ALDER, "ghosts")


def test_a_key_needs_a_grant(office: Office) -> None:
    with pytest.raises(NotGrantedError):
        office.create()


def test_a_grant_that_was_taken_back_gives_no_key(office: Office) -> None:
    office.grant()
    take_back_grant(office)
    with pytest.raises(NotGrantedError):
        office.create()
    office.grant()

    assert office.create() == (KEY, 1)
    assert len(office.entries("model.granted")) == 2


def test_a_key_begins_pre_active_undrawn_and_with_a_job(office: Office) -> None:
    office.grant()
    name = office.create()

    assert name == (KEY, 1)
    assert office.states() == {name: "pre_active"}
    assert office.jobs()[-1] == ("create", "key:alder.cells", "ready", "draw")
    assert office.key_holder.calls == {}


def test_what_is_recorded_of_a_key_names_the_job_that_brings_it(office: Office) -> None:
    office.active_key()
    about = ("key.created", "key.drawn", "key.confirmed", "issued.live")
    named = [office.entries(kind)[0].subject["job"] for kind in about]

    assert len(set(named)) == 1


def test_an_owner_has_one_key_a_model(office: Office) -> None:
    office.grant()
    office.create()

    with pytest.raises(Conflict):
        office.create()


def test_after_a_revocation_the_next_key_has_a_number_of_its_own(
    office: Office,
) -> None:
    office.active_key()
    office.revoke()

    assert office.create() == (KEY, 2)
    assert office.states() == {
        (KEY, 1): "destroy_scheduled",
        (KEY, 2): "pre_active",
    }


def test_a_revocation_ends_every_version_at_once(office: Office) -> None:
    office.active_key()
    office.rotate()

    assert office.revoke(reason="lost laptop") == (KEY, [1, 2])
    assert set(office.states().values()) == {"destroy_scheduled"}
    assert office.primaries() == []
    reasons = [entry.subject["reason"] for entry in office.entries("key.revoked")]
    assert reasons == ["lost laptop"] * 2


def test_a_revocation_gives_up_what_was_under_way(office: Office) -> None:
    office.active_key()
    office.rotate()
    office.revoke()

    assert office.jobs(open_only=True) == [
        ("revoke", "key:alder.cells/1", "ready", "remove"),
        ("revoke", "key:alder.cells/2", "ready", "remove"),
    ]
    assert ("rotate", "key:alder.cells", "aborted", "draw") in office.jobs()


def test_a_second_revocation_finds_nothing_left(office: Office) -> None:
    office.active_key()
    office.revoke()

    assert office.revoke() == (KEY, [])
    assert len(office.entries("key.revoked")) == 1


def test_a_key_that_never_was_is_not_revoked(office: Office) -> None:
    with pytest.raises(NotFound):
        office.revoke()


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_revocation_has_a_short_reason(office: Office, reason: str) -> None:
    office.active_key()

    with pytest.raises(InvalidInput):
        office.revoke(reason=reason)
    assert office.states() == {(KEY, 1): "active"}


def test_one_owners_workflow_leaves_anothers_key_alone(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.revoke()

    assert office.states() == {
        (KEY, 1): "destroy_scheduled",
        ("birch.cells", 1): "active",
    }


def test_a_party_that_is_expelled_loses_its_keys(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    with office.change() as change:
        ended = keys.revoke_party(change, office.policies, ALDER, "left")

    assert ended == [KEY]
    assert office.states() == {
        (KEY, 1): "destroy_scheduled",
        ("birch.cells", 1): "active",
    }
    with pytest.raises(NotAllowedError), office.change(ALDER_ID):
        pass


def test_a_party_without_keys_is_expelled_too(office: Office) -> None:
    with office.change() as change:
        assert keys.revoke_party(change, office.policies, str(PROVIDER_ID), "x") == []

    assert len(office.entries("party.revoked")) == 1


def test_a_key_is_confirmed_once_it_is_drawn(office: Office) -> None:
    office.grant()
    key_id, version = office.create()
    with pytest.raises(KeyRefusedError):
        office.confirm(key_id, version)
    office.settle()
    office.confirm(key_id, version)
    office.confirm(key_id, version)

    assert len(office.entries("key.confirmed")) == 1


def test_a_revoked_key_is_not_confirmed(office: Office) -> None:
    office.grant()
    key_id, version = office.create()
    office.settle()
    office.revoke()

    with pytest.raises(KeyRefusedError):
        office.confirm(key_id, version)


def test_names_too_long_for_a_key_are_refused() -> None:
    owner = SpiffeId("f", "o" * 60, "data-owner")

    with pytest.raises(InvalidInput):
        keys.key_id(owner, "model")


def test_a_stranger_sets_nothing_in_motion(office: Office) -> None:
    def asking() -> AbstractContextManager[object]:
        return office.change(spiffe("elsewhere", "operator"))

    with pytest.raises(NotAllowedError), asking():
        pass
    with office.database.reading() as session:
        assert store.key_of(session, ALDER, MODEL) is None

"""What an operator sets in motion, before the reconciler does anything."""

import math
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import select

from core.errors import (
    Conflict,
    InvalidInput,
    KeyMismatchError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    NotGrantedError,
)
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyAction
from orchestrator.registry.models import Grant
from orchestrator.workflows import keys
from orchestrator.workflows.service import WorkflowService
from protos import workflows_pb2 as pb
from tests.fakes import fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    Office,
    register_model,
    spiffe,
)

ALDER = str(ALDER_ID)


def grant(office: Office) -> None:
    with office.change() as change:
        keys.grant(change, ALDER, MODEL)


def create(office: Office, owner: str = ALDER) -> tuple[str, int]:
    with office.change() as change:
        made = keys.create(change, owner, MODEL)
        return made.key.key_id, made.version


def rotate(office: Office, overlap_s: float = 60.0) -> tuple[str, int]:
    with office.change() as change:
        made = keys.rotate(change, ALDER, MODEL, overlap_s)
        return made.key.key_id, made.version


def revoke(office: Office, reason: str = "lost") -> tuple[str, list[int]]:
    with office.change() as change:
        return keys.revoke(change, ALDER, MODEL, reason)


def test_a_grant_is_recorded_once(office: Office) -> None:
    grant(office)
    grant(office)

    (entry,) = office.entries("model.granted")
    assert entry.subject == {"owner": ALDER, "model": MODEL}
    assert entry.actor == str(OPERATOR_ID)


def test_only_data_owners_are_granted_models(office: Office) -> None:
    with pytest.raises(NotAllowedError), office.change() as change:
        keys.grant(change, str(PROVIDER_ID), MODEL)


def test_a_model_that_nobody_registered_is_not_granted(office: Office) -> None:
    with pytest.raises(NotFound), office.change() as change:
        keys.grant(change, ALDER, "ghosts")


def test_a_key_needs_a_grant(office: Office) -> None:
    with pytest.raises(NotGrantedError):
        create(office)


def test_a_key_begins_pre_active_and_undrawn(office: Office) -> None:
    grant(office)
    name = create(office)

    assert name == ("alder.cells", 1)
    assert office.states() == {name: "pre_active"}
    assert office.key_holder.calls == {}


def test_an_owner_has_one_key_a_model(office: Office) -> None:
    grant(office)
    create(office)

    with pytest.raises(Conflict):
        create(office)


def test_after_a_revocation_the_next_key_has_a_number_of_its_own(
    office: Office,
) -> None:
    office.active_key()
    revoke(office)

    assert create(office) == ("alder.cells", 2)
    assert office.states() == {
        ("alder.cells", 1): "destroy_scheduled",
        ("alder.cells", 2): "pre_active",
    }


def test_only_an_active_key_is_rotated(office: Office) -> None:
    grant(office)
    with pytest.raises(KeyRefusedError):
        rotate(office)
    office.active_key()
    revoke(office)
    with pytest.raises(KeyRefusedError):
        rotate(office)


def test_a_rotation_waits_for_the_one_before(office: Office) -> None:
    office.active_key()
    assert rotate(office) == ("alder.cells", 2)

    with pytest.raises(Conflict):
        rotate(office)


@pytest.mark.parametrize("overlap_s", [-1.0, math.nan, math.inf, 1e9])
def test_an_overlap_without_an_end_is_refused(office: Office, overlap_s: float) -> None:
    office.active_key()

    with pytest.raises(InvalidInput):
        rotate(office, overlap_s)


def test_a_key_does_not_follow_its_model_to_another_patch_size(office: Office) -> None:
    office.active_key()
    register_model(office, patch_size=8)

    with pytest.raises(KeyMismatchError):
        rotate(office)


def test_a_revocation_ends_every_version_at_once(office: Office) -> None:
    office.active_key()
    rotate(office)

    assert revoke(office, "lost laptop") == ("alder.cells", [1, 2])
    assert set(office.states().values()) == {"destroy_scheduled"}
    assert office.primaries() == []
    reasons = [entry.subject["reason"] for entry in office.entries("key.revoked")]
    assert reasons == ["lost laptop"] * 2


def test_a_second_revocation_finds_nothing_left(office: Office) -> None:
    office.active_key()
    revoke(office)

    assert revoke(office) == ("alder.cells", [])
    assert len(office.entries("key.revoked")) == 1


def test_a_key_that_never_was_is_not_revoked(office: Office) -> None:
    with pytest.raises(NotFound):
        revoke(office)


def test_a_reason_is_short(office: Office) -> None:
    office.active_key()

    with pytest.raises(InvalidInput):
        revoke(office, "x" * 501)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_revocation_has_a_reason(office: Office, reason: str) -> None:
    office.active_key()

    with pytest.raises(InvalidInput):
        revoke(office, reason)
    assert office.states() == {("alder.cells", 1): "active"}


def take_back_grant(office: Office) -> None:
    with office.change() as change:
        row = change.session.scalars(select(Grant)).one()
        row.revoked_at_ms = change.now_ms


def test_a_grant_that_was_taken_back_gives_no_key(office: Office) -> None:
    grant(office)
    take_back_grant(office)
    with pytest.raises(NotGrantedError):
        create(office)
    grant(office)

    assert create(office) == ("alder.cells", 1)
    assert len(office.entries("model.granted")) == 2


def test_a_grant_that_was_taken_back_rotates_no_key(office: Office) -> None:
    office.active_key()
    take_back_grant(office)
    with pytest.raises(NotGrantedError):
        rotate(office)
    grant(office)

    assert rotate(office) == ("alder.cells", 2)


def test_a_suspended_key_is_not_rotated(office: Office) -> None:
    office.active_key()
    with office.change() as change:
        row = store.key_version(change.session, "alder.cells", 1)
        store.move(change, row, KeyAction.SUSPEND, "key.suspended")

    assert office.primaries() == [("alder.cells", 1)]
    with pytest.raises(KeyRefusedError):
        rotate(office)


def test_a_key_is_confirmed_once_it_is_drawn(office: Office) -> None:
    grant(office)
    key_id, version = create(office)
    with pytest.raises(KeyRefusedError):
        office.confirm(key_id, version)
    office.settle()
    office.confirm(key_id, version)
    office.confirm(key_id, version)

    assert len(office.entries("key.confirmed")) == 1


def test_a_revoked_key_is_not_confirmed(office: Office) -> None:
    grant(office)
    key_id, version = create(office)
    office.settle()
    revoke(office)

    with pytest.raises(KeyRefusedError):
        office.confirm(key_id, version)


def test_names_too_long_for_a_key_are_refused() -> None:
    owner = SpiffeId("f", "o" * 60, "data-owner")

    with pytest.raises(InvalidInput):
        keys.key_id(owner, "model")


def test_the_service_asks_on_behalf_of_its_caller(office: Office) -> None:
    service = WorkflowService(office.registry)
    context = fake_context()
    wanted = {"owner": ALDER, "model": MODEL}
    with acting_as(OPERATOR_ID):
        service.GrantModel(pb.GrantModelRequest(**wanted), context)
        made = service.CreateKey(pb.CreateKeyRequest(**wanted), context)
        office.settle()
        office.confirm(made.key_id, made.version)
        office.settle()
        rotated = service.RotateKey(pb.RotateKeyRequest(**wanted, overlap_s=5), context)
        revoked = service.RevokeKey(
            pb.RevokeKeyRequest(**wanted, reason="done"), context
        )

    assert (made.key_id, made.version, rotated.version) == ("alder.cells", 1, 2)
    assert list(revoked.versions) == [1, 2]
    assert {e.actor for e in office.entries("key.created")} == {str(OPERATOR_ID)}


def test_one_owners_workflow_leaves_anothers_key_alone(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    revoke(office)

    assert office.states() == {
        ("alder.cells", 1): "destroy_scheduled",
        ("birch.cells", 1): "active",
    }


def test_a_revoked_operator_sets_nothing_in_motion(office: Office) -> None:
    def asking() -> AbstractContextManager[object]:
        return office.change(spiffe("elsewhere", "operator"))

    with pytest.raises(NotAllowedError), asking():
        pass
    with office.database.reading() as session:
        assert store.key_of(session, ALDER, MODEL) is None

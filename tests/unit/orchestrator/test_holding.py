"""Suspend, resume, restore: a key is refused for a while, and nothing of it is lost."""

import pytest

from core.errors import (
    Conflict,
    InvalidInput,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
)
from orchestrator.registry import store
from orchestrator.workflows import keys
from orchestrator.workflows.peers import IssueId
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import ALDER_ID, MODEL, Office, register_model

KEY = "alder.cells"


@pytest.fixture
def patient(office: Office) -> Office:
    """An office where a destruction can be taken back for 100 seconds."""
    office.policies = office.policies.model_copy(update={"destroy_window_s": 100.0})
    return office


def rotated(office: Office, overlap_s: float = 60.0) -> None:
    office.active_key()
    office.rotate(overlap_s=overlap_s)
    office.bring_into_use(KEY, 2)


def states(office: Office) -> list[str]:
    return list(office.states().values())


def test_a_suspended_key_keeps_its_place(office: Office) -> None:
    office.active_key()

    assert office.suspend() == (KEY, [1])
    assert states(office) == ["suspended"]
    assert office.primaries() == [(KEY, 1)]
    assert office.issued() == {(KEY, 1, 1): "live"}
    assert office.server.stored == {IssueId(KEY, 1, MODEL, 1)}


def test_every_version_in_use_is_suspended_and_says_why(office: Office) -> None:
    rotated(office)

    assert office.suspend(reason="lost laptop") == (KEY, [1, 2])
    said = [e.subject["reason"] for e in office.entries("key.suspended")]
    assert said == ["lost laptop"] * 2
    assert states(office) == ["suspended", "suspended"]


def test_a_key_that_is_suspended_already_is_left_as_it_is(office: Office) -> None:
    office.active_key()
    office.suspend()

    assert office.suspend() == (KEY, [])
    assert len(office.entries("key.suspended")) == 1


def test_a_suspension_has_a_reason_and_a_key(office: Office) -> None:
    office.active_key()
    with pytest.raises(InvalidInput):
        office.suspend(reason=" ")
    with pytest.raises(NotFound), office.change() as change:
        keys.key_named(change, str(ALDER_ID), "ghosts")


def test_a_resumed_key_is_as_it_was(office: Office) -> None:
    office.active_key()
    office.suspend()

    assert office.resume() == (KEY, [1])
    assert states(office) == ["active"]
    assert office.primaries() == [(KEY, 1)]
    office.settle()
    assert office.key_holder.calls["send"] == 1, "nothing has to be issued again"
    with office.database.reading() as session:
        assert store.key_version(session, KEY, 1).reason == ""


def test_nothing_suspended_is_nothing_to_resume(office: Office) -> None:
    office.active_key()

    assert office.resume() == (KEY, [])
    assert office.entries("key.resumed") == []


def test_a_version_resumed_beside_another_has_an_overlap_of_its_own(
    office: Office,
) -> None:
    rotated(office, overlap_s=60.0)
    office.clock.pass_seconds(30)
    office.suspend()
    office.clock.pass_seconds(20)
    office.resume()
    assert office.states() == {(KEY, 1): "retiring", (KEY, 2): "active"}
    office.clock.pass_seconds(59)
    office.settle()
    assert states(office) == ["retiring", "active"]
    office.clock.pass_seconds(1)
    office.settle()

    assert states(office) == ["destroyed", "active"]
    assert office.jobs(open_only=True) == []


def test_a_rotation_whose_old_version_is_held_is_done_when_its_overlap_ends(
    office: Office,
) -> None:
    """It waits for nothing any more; the resumed version then ends by itself."""
    rotated(office, overlap_s=60.0)
    office.suspend()
    office.clock.pass_seconds(60)
    office.settle()
    assert office.jobs(open_only=True) == []
    office.resume()
    assert office.open_job("destroy").step == "overlap"
    office.clock.pass_seconds(60)
    office.settle()

    assert states(office) == ["destroyed", "active"]


def test_a_version_resumed_twice_in_its_own_overlap_ends_once(office: Office) -> None:
    rotated(office, overlap_s=60.0)
    office.suspend()
    office.clock.pass_seconds(60)
    office.settle()
    for _ in range(2):
        office.resume()
        office.clock.pass_seconds(30)
        office.settle()
        office.suspend()
    office.resume()
    office.clock.pass_seconds(60)
    office.settle()

    assert states(office) == ["destroyed", "active"]
    assert office.jobs(open_only=True) == []


def test_an_expelled_owners_key_is_not_resumed(office: Office) -> None:
    office.active_key()
    office.suspend()
    with office.change() as change:
        store.revoke_party(change, str(ALDER_ID), "left")

    with pytest.raises(NotAllowedError):
        office.resume()


def test_a_champion_that_came_while_a_key_was_held_is_issued_afterwards(
    office: Office,
) -> None:
    office.active_key()
    office.suspend()
    office.release()
    office.settle()
    assert office.issued() == {(KEY, 1, 1): "live"}
    office.resume()
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live", (KEY, 1, 2): "live"}


def test_a_key_suspended_while_a_model_is_sent_gets_it_once_it_is_resumed(
    office: Office,
) -> None:
    office.active_key()
    register_model(office, seed=1)
    meddler = Meddler(office, "send", office.suspend)
    office.settle(office.engine(meddler, meddler))
    assert office.issued()[KEY, 1, 2] == "pending"
    office.resume()
    office.settle()

    assert office.issued()[KEY, 1, 2] == "live"
    assert len(office.entries("issued.live")) == 2


def test_a_key_held_on_its_way_is_suspended_when_it_would_become_active(
    office: Office,
) -> None:
    office.grant()
    office.create()
    assert office.suspend(reason="abuse") == (KEY, [])
    assert office.entries("key.held")[-1].subject["reason"] == "abuse"
    office.bring_into_use(KEY, 1)
    assert states(office) == ["suspended"]
    office.resume()

    assert states(office) == ["active"]


# Restore


def test_a_destruction_is_taken_back(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.clock.pass_seconds(99.999)
    patient.restore(KEY, 1)
    patient.clock.pass_seconds(1000)
    patient.settle()

    assert states(patient) == ["suspended"]
    assert patient.key_holder.destroyed == set()
    with patient.database.reading() as session:
        assert store.key_version(session, KEY, 1).destroy_at_ms is None


def test_a_restored_key_is_issued_again_when_it_is_resumed(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    assert patient.server.stored == set()
    patient.restore(KEY, 1)
    patient.settle()
    assert patient.server.stored == set()
    patient.resume()
    patient.settle()

    assert patient.states() == {(KEY, 1): "active"}
    assert patient.primaries() == [(KEY, 1)]
    assert patient.issued() == {(KEY, 1, 1): "live"}
    assert patient.server.stored == {IssueId(KEY, 1, MODEL, 1)}


def test_what_may_or_may_not_be_deleted_counts_only_once_it_is_sent_again(
    patient: Office,
) -> None:
    """Restored before the deletion had begun: nobody knows what the server holds."""
    patient.active_key()
    patient.revoke()
    patient.restore(KEY, 1)
    assert patient.issued() == {(KEY, 1, 1): "pending"}
    patient.resume()
    patient.settle()

    assert patient.issued() == {(KEY, 1, 1): "live"}


def test_a_former_version_that_is_restored_is_served_for_an_overlap(
    patient: Office,
) -> None:
    rotated(patient, overlap_s=60.0)
    patient.clock.pass_seconds(60)
    patient.settle()
    assert states(patient) == ["destroy_scheduled", "active"]
    patient.restore(KEY, 1)
    patient.resume()
    patient.settle()
    assert states(patient) == ["retiring", "active"]
    assert patient.issued()[KEY, 1, 1] == "live"
    patient.clock.pass_seconds(60)
    patient.settle()
    patient.clock.pass_seconds(100)
    patient.settle()

    assert states(patient) == ["destroyed", "active"]
    assert patient.primaries() == [(KEY, 2)]


def test_a_restored_version_ends_when_the_key_created_meanwhile_is_used(
    patient: Office,
) -> None:
    """A `create` job waits for no overlap: the version has a job of its own."""
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.create()
    patient.settle()
    patient.restore(KEY, 1)
    patient.resume()
    patient.bring_into_use(KEY, 2)
    for _ in range(2):
        patient.clock.pass_seconds(100)
        patient.settle()

    assert states(patient) == ["destroyed", "active"]
    assert patient.jobs(open_only=True) == []


def test_a_restored_version_held_beside_its_successor_is_no_longer_primary(
    patient: Office,
) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.create()
    patient.settle()
    patient.restore(KEY, 1)
    patient.resume()
    patient.suspend()
    patient.bring_into_use(KEY, 2)

    assert states(patient) == ["suspended", "suspended"]
    assert patient.primaries() == [(KEY, 2)]


def test_after_its_window_nothing_is_restored(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.clock.pass_seconds(100)

    with pytest.raises(KeyRefusedError, match="window is over"):
        patient.restore(KEY, 1)


def test_only_what_waits_to_be_destroyed_is_restored(patient: Office) -> None:
    patient.active_key()
    with pytest.raises(KeyRefusedError):
        patient.restore(KEY, 1)
    with pytest.raises(NotFound):
        patient.restore(KEY, 2)


def test_what_is_being_deleted_at_this_moment_is_not_restored(patient: Office) -> None:
    """The deletion under way could arrive after the model was sent again."""
    patient.active_key()
    patient.revoke()
    refused: list[str] = []

    def try_to_restore() -> None:
        with pytest.raises(Conflict) as caught:
            patient.restore(KEY, 1)
        refused.append(str(caught.value))

    meddler = Meddler(patient, "delete", try_to_restore)
    patient.settle(patient.engine(meddler, meddler))

    assert refused == ["it is being worked on at this moment: try again"]
    assert states(patient) == ["destroy_scheduled"]


def test_a_key_that_is_being_destroyed_is_not_restored(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.key_holder.away = True
    patient.clock.pass_seconds(100)
    patient.settle()

    with pytest.raises(KeyRefusedError):
        patient.restore(KEY, 1)


# Destroy


def destroy_now(office: Office, version: int = 1) -> None:
    with office.change() as change:
        keys.destroy_now(change, KEY, version)


def test_a_window_can_be_ended_early(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    destroy_now(patient)
    patient.settle()

    assert states(patient) == ["destroyed"]
    (entry,) = patient.entries("key.window_ended")
    assert entry.subject["job"] == patient.entries("key.destroyed")[0].subject["job"]


def test_a_window_ended_before_the_models_are_deleted_is_over_then(
    patient: Office,
) -> None:
    patient.active_key()
    patient.revoke()
    destroy_now(patient)
    patient.settle()

    assert states(patient) == ["destroyed"]
    assert patient.server.stored == set()


def test_a_key_in_use_is_not_destroyed(patient: Office) -> None:
    patient.active_key()
    with pytest.raises(KeyRefusedError):
        destroy_now(patient)
    patient.suspend()
    with pytest.raises(KeyRefusedError):
        destroy_now(patient)

    assert states(patient) == ["suspended"]


def test_a_version_restored_and_revoked_again_is_destroyed(patient: Office) -> None:
    patient.active_key()
    patient.revoke()
    patient.settle()
    patient.restore(KEY, 1)
    patient.revoke()
    patient.settle()
    patient.clock.pass_seconds(100)
    patient.settle()

    assert states(patient) == ["destroyed"]
    assert patient.issued() == {(KEY, 1, 1): "gone"}

"""A leaked key: what is refused at once, and how a model comes back."""

import pytest

from core.errors import Conflict, InvalidInput, NotFound
from orchestrator.registry import store
from orchestrator.workflows import keys, recovery
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    Office,
    register_model,
)

ALDER, BIRCH = "alder.cells", "birch.cells"


@pytest.fixture
def town(office: Office) -> Office:
    """Two owners use the model; it has a champion."""
    office.move_champion(1)
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    return office


def exposed(office: Office) -> list[int]:
    with office.database.reading() as session:
        found = recovery.exposed_versions(session, store.model_named(session, MODEL))
        return [version.version for version in found]


def release_afresh(office: Office, seed: int = 7) -> int:
    return office.release(seed, embedding="c")


def test_a_leaked_key_is_refused_at_once_and_its_model_exposed(town: Office) -> None:
    found = town.compromise(ALDER_ID)

    assert (found.key_id, found.versions) == (ALDER, [1])
    assert town.states()[ALDER, 1] == "compromised"
    assert town.primaries() == [(BIRCH, 1)]
    assert exposed(town) == [1]
    (entry,) = town.entries("model.exposed")
    assert (entry.subject["key_id"], entry.subject["model_version"]) == (ALDER, 1)


def test_by_policy_every_other_owner_of_the_model_is_held(town: Office) -> None:
    found = town.compromise(ALDER_ID)

    assert found.suspended == [BIRCH]
    assert town.states()[BIRCH, 1] == "suspended"
    (entry,) = town.entries("key.suspended")
    assert "exposed" in str(entry.subject["reason"])


def test_by_another_policy_the_others_are_still_served(town: Office) -> None:
    policy = town.policies.compromise.model_copy(update={"suspend": "owner"})
    town.policies = town.policies.model_copy(update={"compromise": policy})
    found = town.compromise(ALDER_ID)

    assert found.suspended == []
    assert town.states() == {(ALDER, 1): "compromised", (BIRCH, 1): "active"}
    release_afresh(town)
    town.settle()
    town.confirm(ALDER, 2)
    town.confirm(BIRCH, 2)
    town.settle()
    assert town.states() == {
        (ALDER, 1): "destroyed",
        (ALDER, 2): "active",
        (BIRCH, 1): "destroyed",
        (BIRCH, 2): "active",
    }


def test_every_version_that_was_ever_issued_is_exposed_and_no_other(
    town: Office,
) -> None:
    town.release(seed=1)
    town.settle()
    register_model(town, seed=2)
    town.settle()
    town.compromise(ALDER_ID)

    assert exposed(town) == [1, 2]


def test_what_an_operator_must_see_to_is_said_in_order(town: Office) -> None:
    found = town.compromise(ALDER_ID)
    words = ("presumed known", "how the key", "fresh", "champion", "confirmed", "jobs")

    assert len(found.needed) == len(words)
    for line, word in zip(found.needed, words, strict=True):
        assert word in line
    assert found.recovery is not None
    assert f"keymixer jobs show {found.recovery.id}" in found.needed[-1]


def test_a_key_under_which_nothing_was_issued_exposes_nothing(office: Office) -> None:
    office.grant()
    office.create()
    office.settle()
    found = office.compromise(ALDER_ID)

    assert found.recovery is None
    assert exposed(office) == []
    assert office.states() == {(ALDER, 1): "compromised"}
    assert "keymixer keys revoke" in found.needed[0]
    office.revoke()
    assert office.create() == (ALDER, 2)


def test_a_compromise_has_a_reason_and_a_key(town: Office) -> None:
    with pytest.raises(InvalidInput):
        town.compromise(reason="")
    with pytest.raises(NotFound), town.change() as change:
        recovery.report(change, town.policies, str(ALDER_ID), "ghosts", "leaked")


def test_a_held_key_is_not_resumed_while_its_model_is_exposed(town: Office) -> None:
    town.compromise(ALDER_ID)

    with pytest.raises(Conflict, match="exposed"):
        town.resume(BIRCH_ID)
    assert town.states()[BIRCH, 1] == "suspended"


def test_a_leaked_key_is_given_up_wherever_it_is_under_way(town: Office) -> None:
    town.rotate(ALDER_ID)
    town.settle()
    town.compromise(ALDER_ID)

    assert town.states()[ALDER, 2] == "compromised"
    assert ("rotate", "key:alder.cells", "aborted", "confirm") in town.jobs()


def test_an_exposed_version_is_issued_to_nobody_any_more(town: Office) -> None:
    """A first key that is under way waits for the clean release."""
    town.revoke(BIRCH_ID)
    town.settle()
    town.create(BIRCH_ID)
    town.settle()
    town.compromise(ALDER_ID)
    before = town.key_holder.calls["prepare"]
    town.confirm(BIRCH, 2)
    town.settle()
    assert town.key_holder.calls["prepare"] == before
    assert "presumed known" in town.open_job("create").why
    release_afresh(town)
    town.settle()

    assert town.states()[BIRCH, 2] == "active"
    assert town.issued()[BIRCH, 2, 2] == "live"


def test_a_model_exposed_while_it_is_sent_is_not_put_to_use(town: Office) -> None:
    town.rotate(BIRCH_ID)
    town.settle()
    meddler = Meddler(town, "send", lambda: town.compromise(ALDER_ID))
    town.confirm(BIRCH, 2)
    town.settle(town.engine(meddler, meddler))

    assert meddler.done == ["send"]
    assert town.states()[BIRCH, 2] == "pre_active"
    assert "issued.live" not in town.kinds()[-8:]


# The recovery


def test_a_recovery_brings_every_owner_a_new_key(town: Office) -> None:
    town.compromise(ALDER_ID)
    town.settle()
    assert town.open_job("recover").step == "await_release"
    release_afresh(town)
    town.settle()
    assert town.open_job("recover").step == "children"
    town.confirm(ALDER, 2)
    town.settle()
    assert town.states()[ALDER, 2] == "active", "nobody waits for the other owner"
    assert town.states()[BIRCH, 1] == "suspended"
    town.confirm(BIRCH, 2)
    town.settle()

    assert town.states() == {
        (ALDER, 1): "destroyed",
        (ALDER, 2): "active",
        (BIRCH, 1): "destroyed",
        (BIRCH, 2): "active",
    }
    assert town.jobs(open_only=True) == []
    assert {issue.model_version for issue in town.server.stored} == {2}


def test_a_former_key_is_not_served_beside_its_successor(town: Office) -> None:
    """Its embedding is exposed: there is no overlap, whatever the policy says."""
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    town.confirm(BIRCH, 2)
    town.settle()

    assert town.entries("key.retiring") == []
    assert town.states()[BIRCH, 1] == "destroyed"


@pytest.mark.parametrize(
    ("seed", "more", "why"),
    [
        (1, {"embedding": "c", "parent": 1}, "trained on from another"),
        (1, {"embedding": "a"}, "has the embedding"),
    ],
)
def test_a_release_that_ends_no_exposure_is_not_enough(
    town: Office, seed: int, more: dict[str, object], why: str
) -> None:
    town.compromise(ALDER_ID)
    town.release(seed, **more)
    town.settle()

    assert town.open_job("recover").step == "await_release"
    assert why in town.open_job("recover").why
    release_afresh(town)
    town.settle()
    assert town.open_job("recover").step == "children"


def test_a_version_from_before_the_leak_is_not_enough(town: Office) -> None:
    register_model(town, seed=3, embedding="c")
    town.settle()
    town.clock.pass_seconds(1)
    town.compromise(ALDER_ID)
    town.move_champion(2)
    town.settle()

    assert "before the exposure" in town.open_job("recover").why


def test_a_clean_version_must_be_the_champion(town: Office) -> None:
    town.compromise(ALDER_ID)
    register_model(town, seed=7, embedding="c")
    town.settle()
    assert town.open_job("recover").step == "await_release"
    town.move_champion(2)
    town.settle()

    assert town.open_job("recover").step == "children"


def test_a_rotation_under_way_becomes_part_of_the_recovery(town: Office) -> None:
    """Birch has confirmed its next version, which now needs the clean release."""
    town.rotate(BIRCH_ID)
    town.settle()
    town.compromise(ALDER_ID)
    town.confirm(BIRCH, 2)
    town.settle()
    assert town.states()[BIRCH, 2] == "pre_active"
    release_afresh(town)
    town.settle()

    assert town.states()[BIRCH, 2] == "active"
    assert town.states()[BIRCH, 1] == "destroyed"
    assert town.issued()[BIRCH, 2, 2] == "live"
    assert (BIRCH, 3) not in town.states()


def test_an_expelled_or_ungranted_owner_gets_no_key(town: Office) -> None:
    town.compromise(ALDER_ID)
    with town.change() as change:
        keys.revoke_party(change, town.policies, str(BIRCH_ID), "left")
    release_afresh(town)
    town.settle()
    town.confirm(ALDER, 2)
    town.settle()

    assert town.states() == {
        (ALDER, 1): "destroyed",
        (ALDER, 2): "active",
        (BIRCH, 1): "destroyed",
    }
    assert town.jobs(open_only=True) == []


def test_a_key_revoked_in_its_recovery_ends_there(town: Office) -> None:
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    town.revoke(ALDER_ID)
    town.confirm(BIRCH, 2)
    town.settle()

    assert town.states() == {
        (ALDER, 1): "destroyed",
        (ALDER, 2): "destroyed",
        (BIRCH, 1): "destroyed",
        (BIRCH, 2): "active",
    }
    assert town.jobs(open_only=True) == []


def test_a_second_leak_begins_the_recovery_again(town: Office) -> None:
    first = town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    town.confirm(ALDER, 2)
    town.settle()
    second = town.compromise(ALDER_ID)
    assert first.recovery is not None
    assert second.recovery is not None
    assert second.recovery.id == first.recovery.id
    assert exposed(town) == [1, 2]
    town.confirm(BIRCH, 2)
    town.settle()
    assert town.states()[BIRCH, 2] == "pre_active"
    town.release(8, embedding="d")
    town.settle()
    town.confirm(ALDER, 3)
    town.settle()

    assert town.states() == {
        (ALDER, 1): "destroyed",
        (ALDER, 2): "destroyed",
        (ALDER, 3): "active",
        (BIRCH, 1): "destroyed",
        (BIRCH, 2): "active",
    }
    assert {issue.model_version for issue in town.server.stored} == {3}
    assert town.jobs(open_only=True) == []


def test_many_owners_are_rekeyed_some_at_a_time(
    town: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "AT_ONCE", 1)
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()

    assert town.states()[ALDER, 2] == town.states()[BIRCH, 2] == "pre_active"
    assert len([job for job in town.open_rows() if job.kind == "rotate"]) == 2

"""A leaked key: what is refused at once, and how a model comes back."""

import pytest

from core.errors import Conflict, InvalidInput, NotFound
from core.rpc.identity import DATA_OWNER, SpiffeId
from orchestrator.registry import store
from orchestrator.workflows import exposure, issuing, keys, recovery, undoing
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    Office,
    register_model,
    spiffe,
)

ALDER, BIRCH, CEDAR = "alder.cells", "birch.cells", "cedar.cells"
CEDAR_ID = spiffe("cedar", DATA_OWNER)


@pytest.fixture
def town(office: Office) -> Office:
    """Two owners use the model; it has a champion."""
    office.move_champion(1)
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    return office


def exposed(office: Office) -> list[int]:
    with office.database.reading() as session:
        found = exposure.exposed_versions(session, store.model_named(session, MODEL))
        return [version.version for version in found]


def recover_both(office: Office) -> None:
    """Release a clean version, and let both owners confirm their new keys."""
    release_afresh(office)
    office.settle()
    office.confirm(ALDER, 2)
    office.confirm(BIRCH, 2)
    office.settle()


def enrol(office: Office, owner: SpiffeId) -> None:
    with office.registry.own_change() as change:
        store.enrol(change, owner)


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
    register_model(town, seed=2, embedding="e")
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
    ("embedding", "parent", "why"),
    [
        ("d", 1, "it was trained on from version 1"),
        ("a", None, "it has the embedding of version 1"),
    ],
)
def test_a_release_whose_embedding_is_no_secret_is_exposed_from_the_start(
    town: Office, embedding: str, parent: int | None, why: str
) -> None:
    town.compromise(ALDER_ID)
    version = register_model(town, seed=1, embedding=embedding, parent=parent)
    assert exposed(town) == [1, version]
    assert town.entries("model.exposed")[-1].subject["reason"] == why
    with pytest.raises(Conflict, match="fresh secret start"):
        town.move_champion(version)
    town.settle()
    assert town.open_job("recover").step == "await_release"
    release_afresh(town)
    town.settle()

    assert town.open_job("recover").step == "children"


def test_what_was_registered_before_the_leak_with_that_embedding_is_exposed_too(
    town: Office,
) -> None:
    """Versions 2 and 3 were never issued, and 4 has an embedding of its own."""
    register_model(town, seed=2, embedding="d")
    register_model(town, seed=3, embedding="d", parent=1)
    register_model(town, seed=4, embedding="e")
    town.compromise(ALDER_ID)

    assert exposed(town) == [1, 2, 3]


def test_what_other_keys_were_issued_is_exposed_too(town: Office) -> None:
    """Alder's key gives version 1, so birch's key, and birch had version 2."""
    enrol(town, CEDAR_ID)
    town.suspend(ALDER_ID)
    town.release(5, embedding="d")
    town.settle()
    town.active_key(CEDAR_ID)
    assert (ALDER, 1, 2) not in town.issued()
    town.compromise(ALDER_ID)

    assert exposed(town) == [1, 2]
    assert town.states()[CEDAR, 1] == "suspended"
    with pytest.raises(Conflict, match="the recovery, job"):
        town.resume(CEDAR_ID)


def test_an_exposed_model_reaches_no_new_owner(town: Office) -> None:
    enrol(town, CEDAR_ID)
    town.compromise(ALDER_ID)
    town.active_key(CEDAR_ID)

    assert town.states()[CEDAR, 1] == "pre_active"
    assert "presumed known" in town.open_job("create").why


def test_a_key_used_with_an_exposed_model_never_gets_the_clean_one(
    town: Office,
) -> None:
    """Even if it is still served: the policy holds only the leaked key."""
    policy = town.policies.compromise.model_copy(update={"suspend": "owner"})
    town.policies = town.policies.model_copy(update={"compromise": policy})
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    town.confirm(BIRCH, 2)
    town.settle()

    assert (BIRCH, 1, 2) not in town.issued()
    assert town.issued()[BIRCH, 2, 2] == "live"


def test_a_new_version_that_was_prepared_with_an_exposed_model_is_replaced(
    town: Office,
) -> None:
    town.rotate(BIRCH_ID)
    town.settle()
    meddler = Meddler(town, "send", lambda: town.compromise(ALDER_ID))
    town.confirm(BIRCH, 2)
    town.settle(town.engine(meddler, meddler))
    release_afresh(town)
    town.settle()
    assert town.states()[BIRCH, 2] == "destroyed"
    for key in ((ALDER, 2), (BIRCH, 3)):
        town.confirm(*key)
    town.settle()

    assert (town.states()[BIRCH, 3], town.states()[BIRCH, 1]) == ("active", "destroyed")
    assert town.jobs(open_only=True) == []


def test_a_recovery_lifts_no_hold_of_an_operator(town: Office) -> None:
    town.suspend(BIRCH_ID, "under investigation")
    town.compromise(ALDER_ID)
    recover_both(town)

    assert town.states()[BIRCH, 2] == "suspended"
    said = town.entries("key.suspended")[-1].subject
    assert (said["key_version"], said["reason"]) == (2, "under investigation")
    assert town.jobs(open_only=True) == []
    town.resume(BIRCH_ID)
    assert town.states()[BIRCH, 2] == "active"


def test_a_key_held_during_a_recovery_is_held_after_it(town: Office) -> None:
    town.compromise(ALDER_ID)
    assert town.suspend(BIRCH_ID, "abuse") == (BIRCH, [])
    assert town.entries("key.held")[-1].subject["reason"] == "abuse"
    recover_both(town)

    assert town.states()[BIRCH, 2] == "suspended"


def test_a_hold_lifted_during_a_recovery_is_lifted_for_the_new_version(
    town: Office,
) -> None:
    town.suspend(BIRCH_ID)
    town.compromise(ALDER_ID)
    assert town.resume(BIRCH_ID) == (BIRCH, [])
    assert town.states()[BIRCH, 1] == "suspended"
    recover_both(town)

    assert town.states()[BIRCH, 2] == "active"


def test_a_key_that_is_being_created_stops_nobodys_recovery(town: Office) -> None:
    """Birch's former version was restored, while its next one waits for the owner."""
    town.policies = town.policies.model_copy(update={"destroy_window_s": 1000.0})
    town.revoke(BIRCH_ID)
    town.settle()
    town.create(BIRCH_ID)
    town.settle()
    town.restore(BIRCH, 1)
    town.compromise(ALDER_ID)
    recover_both(town)

    assert town.states()[ALDER, 2] == town.states()[BIRCH, 2] == "active"
    assert town.states()[BIRCH, 1] == "destroy_scheduled"


def test_a_recovery_begun_again_needs_no_other_release(town: Office) -> None:
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    with town.change() as change:
        job = town.open_job("recover")
        undoing.give_up(change, town.policies, job.id, "a mistake")
    town.settle()
    town.clock.pass_seconds(5)
    town.compromise(ALDER_ID)
    town.settle()

    assert town.open_job("recover").step == "children"


def test_a_given_up_rotation_of_a_recovery_is_begun_again(town: Office) -> None:
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    (child,) = [job for job in town.open_rows() if job.subject == f"key:{BIRCH}"]
    with town.change() as change:
        undoing.give_up(change, town.policies, child.id, "absent")
    town.confirm(ALDER, 2)
    town.settle()
    town.confirm(BIRCH, 3)
    town.settle()

    assert town.states()[BIRCH, 3] == "active"
    assert town.jobs(open_only=True) == []


def test_a_version_restored_after_the_recovery_says_the_way_out(town: Office) -> None:
    town.policies = town.policies.model_copy(update={"destroy_window_s": 1000.0})
    town.revoke(BIRCH_ID)
    town.settle()
    town.compromise(ALDER_ID)
    release_afresh(town)
    town.settle()
    town.confirm(ALDER, 2)
    town.settle()
    town.restore(BIRCH, 1)
    with pytest.raises(Conflict, match=r"keys revoke.*keys create"):
        town.resume(BIRCH_ID)
    town.revoke(BIRCH_ID)

    assert town.create(BIRCH_ID) == (BIRCH, 2)


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


def test_a_name_that_reads_like_a_pattern_gives_up_no_other_models_jobs(
    office: Office,
) -> None:
    """`conv_mixer` is exposed; what brings `conv-mixer` its version 1 goes on."""
    made = {}
    for name, owner in (("conv_mixer", ALDER_ID), ("conv-mixer", BIRCH_ID)):
        register_model(office, name)
        with office.change() as change:
            keys.grant(change, str(owner), name)
            version = keys.create(change, office.policies, str(owner), name).key_version
            assert version is not None
            made[name] = version.key.key_id
    office.settle()
    for key_id in made.values():
        office.confirm(key_id, 1)
    office.settle()
    with office.change() as change:
        recovery.report(change, office.policies, str(ALDER_ID), "conv_mixer", "leak")
        other = store.key_version(change.session, made["conv-mixer"], 1)
        wanted = store.model_version(change.session, "conv-mixer", 1)
        issuing.open_issue(change, other, wanted)
    clean = register_model(office, "conv_mixer", seed=4, embedding="e")
    office.move_champion(clean, "conv_mixer")

    assert office.open_job("issue").subject.endswith("/conv-mixer/1")

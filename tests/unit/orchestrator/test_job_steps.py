"""Each step of a key's life: what it does, and what happens beside it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.statements import DESTRUCTION, ISSUE, DestructionReceipt, IssueStatement, sign
from orchestrator.workflows import engine as engines
from orchestrator.workflows import jobs
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.peers import (
    IssueId,
    KeyToDraw,
    PreparedIssue,
    SignedReceipt,
)
from orchestrator.workflows.procedures import STEPS, Procedure
from orchestrator.workflows.work import Work
from tests.unit.orchestrator import test_job_crashes
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    ORCHESTRATOR_ID,
    Office,
    register_model,
)

ALDER = str(ALDER_ID)
KEY = "alder.cells"


def begin(office: Office) -> None:
    office.grant()
    office.create()


def new_version(office: Office, version: int, overlap_s: float = 60.0) -> None:
    office.rotate(overlap_s=overlap_s)
    office.bring_into_use(KEY, version)


# The way in


def test_a_new_key_is_drawn_and_waits_for_its_owner(office: Office) -> None:
    begin(office)
    office.settle()

    assert office.states() == {(KEY, 1): "pre_active"}
    assert office.key_holder.keys[KEY, 1] == KeyToDraw(KEY, 1, ALDER, MODEL, 4, 3)
    assert office.issued() == {}
    assert office.open_job("create").state == "waiting"
    assert "owner" in office.open_job("create").why


def test_a_confirmed_key_becomes_active_with_its_model_issued(office: Office) -> None:
    office.active_key()

    assert office.states() == {(KEY, 1): "active"}
    assert office.primaries() == [(KEY, 1)]
    assert office.issued() == {(KEY, 1, 1): "live"}
    assert office.server.stored == {IssueId(KEY, 1, MODEL, 1)}
    assert office.jobs(open_only=True) == []


def test_a_job_that_waits_for_its_owner_may_be_tried_again(office: Office) -> None:
    begin(office)
    office.settle()
    with office.change() as change:
        jobs.retry(change, jobs.named(change.session, office.open_job("create").id))
    office.settle()

    assert office.open_job("create").step == "confirm"
    assert office.key_holder.calls["draw"] == 1
    office.confirm(KEY, 1)
    office.settle()
    assert office.states() == {(KEY, 1): "active"}


def test_the_champion_is_issued_even_if_it_is_not_the_newest(office: Office) -> None:
    register_model(office, seed=1)
    office.move_champion(1)
    office.active_key()

    assert office.issued() == {(KEY, 1, 1): "live"}


def test_a_new_champion_is_issued_under_the_keys_in_use(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.move_champion(1)
    office.move_champion(register_model(office, seed=1))
    office.settle()

    assert office.issued() == {
        (key, 1, version): "live" for key in (KEY, "birch.cells") for version in (1, 2)
    }
    assert set(office.states().values()) == {"active"}


def test_without_a_champion_a_new_version_is_issued_as_it_comes(office: Office) -> None:
    office.active_key()
    register_model(office, seed=1)
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live", (KEY, 1, 2): "live"}


def test_beside_a_champion_a_new_version_waits_to_become_it(office: Office) -> None:
    office.active_key()
    office.move_champion(1)
    register_model(office, seed=1)
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live"}


def test_a_release_that_is_registered_again_is_not_begun_again(office: Office) -> None:
    office.settle()
    before = office.jobs()
    register_model(office)
    office.settle()

    assert office.jobs() == before


def test_a_newer_version_with_other_patches_is_passed_over(office: Office) -> None:
    """Without a champion a key is issued what it fits: not 3, whose patches are 8."""
    begin(office)
    register_model(office, seed=1)
    register_model(office, patch_size=8)
    office.bring_into_use(KEY, 1)

    assert office.issued() == {(KEY, 1, 2): "live"}
    assert office.key_holder.calls["prepare"] == 1


def test_a_key_waits_for_a_champion_with_its_patches(office: Office) -> None:
    begin(office)
    office.move_champion(register_model(office, patch_size=8))
    office.bring_into_use(KEY, 1)
    assert office.states() == {(KEY, 1): "pre_active"}
    assert "blocks" in office.open_job("create").why
    office.move_champion(1)
    office.settle()

    assert office.states() == {(KEY, 1): "active"}


def test_a_champion_that_comes_while_another_is_prepared_is_prepared_too(
    office: Office,
) -> None:
    """What is issued in the end is the champion."""
    begin(office)
    office.move_champion(1)
    register_model(office, seed=1)
    meddler = Meddler(office, "prepare", lambda: office.move_champion(2))
    office.settle(office.engine(meddler, meddler))
    office.confirm(KEY, 1)
    office.settle(office.engine(meddler, meddler))

    assert meddler.done == ["prepare"]
    assert office.issued() == {(KEY, 1, 2): "live"}
    assert office.server.stored == {IssueId(KEY, 1, MODEL, 2)}


def test_a_champion_that_comes_while_another_is_sent_follows_it(office: Office) -> None:
    """The key is not kept waiting: it is used with what it has, and gets the other.

    The release is over by then: it found no key in use.
    """
    begin(office)
    office.move_champion(1)
    register_model(office, seed=1)

    def release() -> None:
        office.move_champion(2)
        office.settle()

    meddler = Meddler(office, "send", release)
    office.settle(office.engine(meddler, meddler))
    office.confirm(KEY, 1)
    office.settle(office.engine(meddler, meddler))

    assert meddler.done == ["send"]
    assert office.issued() == {(KEY, 1, 1): "live", (KEY, 1, 2): "live"}
    assert office.jobs(open_only=True) == []


def test_a_model_that_reaches_a_key_in_its_overlap_is_used_until_it_ends(
    office: Office,
) -> None:
    office.active_key()
    office.rotate()
    office.bring_into_use(KEY, 2)
    register_model(office, seed=1)
    office.settle()

    assert office.issued() == {
        (KEY, 1, 1): "retiring",
        (KEY, 1, 2): "live",
        (KEY, 2, 1): "live",
        (KEY, 2, 2): "live",
    }


def test_a_model_on_its_way_while_its_key_retires_still_arrives(office: Office) -> None:
    office.active_key()
    register_model(office, seed=1)
    office.rotate()
    meddler = Meddler(office, "send", lambda: office.bring_into_use(KEY, 2))
    office.settle(office.engine(meddler, meddler))

    assert meddler.done == ["send"]
    assert office.issued()[KEY, 1, 2] == "live"
    assert office.states() == {(KEY, 1): "retiring", (KEY, 2): "active"}


def test_a_model_still_on_its_way_when_the_overlap_ends_is_given_up(
    office: Office,
) -> None:
    office.active_key()
    new_version(office, 2)
    register_model(office, seed=1)

    def end() -> None:
        office.clock.pass_seconds(60)
        office.settle()

    meddler = Meddler(office, "send", end)
    office.settle(office.engine(meddler, meddler))
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed", (KEY, 2): "active"}
    assert {issue.key_version for issue in office.server.stored} == {2}
    assert office.jobs(open_only=True) == []


def test_an_embedding_that_comes_late_is_waited_for(office: Office) -> None:
    office.key_holder.embeddings = set()
    office.active_key()
    assert office.states() == {(KEY, 1): "pre_active"}
    assert office.open_job("create").state == "waiting"
    office.key_holder.embeddings.add((MODEL, 1))
    office.clock.pass_seconds(1)
    office.settle()

    assert office.states() == {(KEY, 1): "active"}


# In and out


def test_in_a_rotation_old_and_new_are_both_served(office: Office) -> None:
    office.active_key()
    office.rotate()
    office.settle()
    assert office.states() == {(KEY, 1): "active", (KEY, 2): "pre_active"}
    office.confirm(KEY, 2)
    office.settle()

    assert office.states() == {(KEY, 1): "retiring", (KEY, 2): "active"}
    assert office.primaries() == [(KEY, 2)]
    assert office.issued() == {(KEY, 1, 1): "retiring", (KEY, 2, 1): "live"}
    (entry,) = office.entries("key.retiring")
    assert entry.subject["retire_at_ms"] == office.clock.now_ms + 60_000


def test_after_the_overlap_the_old_version_is_destroyed(office: Office) -> None:
    office.active_key()
    new_version(office, 2)
    office.clock.pass_seconds(59.999)
    office.settle()
    assert office.states()[KEY, 1] == "retiring"
    office.clock.pass_seconds(0.001)
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed", (KEY, 2): "active"}
    assert office.issued() == {(KEY, 1, 1): "gone", (KEY, 2, 1): "live"}
    assert office.server.stored == {IssueId(KEY, 2, MODEL, 1)}
    assert office.key_holder.destroyed == {(KEY, 1)}


def test_an_absent_owner_holds_up_no_other(office: Office) -> None:
    for owner in (ALDER_ID, BIRCH_ID):
        office.active_key(owner)
    office.rotate(None, 0.0)
    office.bring_into_use("birch.cells", 2)

    assert office.states() == {
        (KEY, 1): "active",
        (KEY, 2): "pre_active",
        ("birch.cells", 1): "destroyed",
        ("birch.cells", 2): "active",
    }
    assert office.open_job("rotate").step == "confirm"


# The way out


def test_a_revoked_key_is_deleted_and_destroyed(office: Office) -> None:
    office.active_key()
    office.revoke()
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.issued() == {(KEY, 1, 1): "gone"}
    assert office.server.stored == set()
    assert office.key_holder.destroyed == {(KEY, 1)}


def test_every_model_of_a_key_is_deleted(office: Office) -> None:
    office.active_key()
    register_model(office, seed=1)
    office.settle()
    office.revoke()
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "gone", (KEY, 1, 2): "gone"}
    assert office.server.stored == set()


def test_a_key_revoked_before_it_was_drawn_is_destroyed_too(office: Office) -> None:
    begin(office)
    office.revoke()
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.key_holder.calls["draw"] == 0
    assert office.entries("key.destroyed")[0].subject["receipt_sha256"] == ""


def test_every_step_is_recorded_by_the_orchestrator(office: Office) -> None:
    before = len(office.kinds())
    office.active_key()
    office.revoke()
    office.settle()

    assert office.kinds()[before:] == [
        *("model.granted", "key.created", "key.drawn", "key.confirmed"),
        *("issued.prepared", "issued.live", "key.activated"),
        *("key.revoked", "issued.retiring", "issued.gone", "key.destroyed"),
    ]
    drawn = office.entries("key.drawn")[0]
    assert (drawn.actor, drawn.subject["owner"]) == (str(ORCHESTRATOR_ID), ALDER)


def test_a_key_is_destroyed_once_its_window_is_over(office: Office) -> None:
    office.policies = office.policies.model_copy(update={"destroy_window_s": 100.0})
    office.active_key()
    office.revoke()
    office.settle()
    office.clock.pass_seconds(99.999)
    office.settle()
    assert office.states() == {(KEY, 1): "destroy_scheduled"}
    assert office.server.stored == set(), "the window is for the seed alone"
    office.clock.pass_seconds(0.001)
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed"}


# What happens beside a call


@pytest.mark.parametrize("during", ["draw", "prepare", "send"])
@pytest.mark.parametrize("how", ["revoke", "compromise"])
def test_a_key_that_is_ended_during_a_call_stays_ended(
    office: Office, during: str, how: str
) -> None:
    begin(office)
    meddler = Meddler(office, during, getattr(office, how))
    office.settle(office.engine(meddler, meddler))
    if during != "draw":
        office.confirm(KEY, 1)
        office.settle(office.engine(meddler, meddler))
    assert not {"issued.live", "key.activated"} & set(office.kinds())
    if how == "compromise":
        assert office.states() == {(KEY, 1): "compromised"}
        office.revoke()
    office.settle()

    assert meddler.done == [during]
    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.server.stored == set()
    assert office.key_holder.destroyed == {(KEY, 1)}


@pytest.mark.parametrize("during", ["draw", "prepare", "send"])
def test_a_key_that_is_suspended_during_a_call_gets_no_successor(
    office: Office, during: str
) -> None:
    """The rotation waits, and goes on once the key is resumed."""
    office.active_key()
    office.rotate()
    meddler = Meddler(office, during, office.suspend)
    office.settle(office.engine(meddler, meddler))
    office.confirm(KEY, 2)
    office.settle(office.engine(meddler, meddler))
    assert office.states() == {(KEY, 1): "suspended", (KEY, 2): "pre_active"}
    assert "suspended" in office.open_job("rotate").why
    office.resume()
    office.settle()

    assert meddler.done == [during]
    assert office.states() == {(KEY, 1): "retiring", (KEY, 2): "active"}


@pytest.mark.parametrize("during", ["prepare", "send"])
def test_an_old_key_revoked_while_its_successor_is_sent_ends_both(
    office: Office, during: str
) -> None:
    office.active_key()
    office.rotate()
    meddler = Meddler(office, during, office.revoke)
    office.settle(office.engine(meddler, meddler))
    office.confirm(KEY, 2)
    office.settle(office.engine(meddler, meddler))

    assert office.states() == {(KEY, 1): "destroyed", (KEY, 2): "destroyed"}
    assert office.server.stored == set()
    assert office.primaries() == []


# What is said wrongly


def said(office: Office, **changed: object) -> PreparedIssue:
    prepared = office.key_holder.prepare(IssueId(KEY, 1, MODEL, 1), "a test")
    statement = IssueStatement.from_bytes(prepared.statement)
    wrong = replace(statement, **changed).to_bytes()  # type: ignore[arg-type]
    return PreparedIssue(wrong, sign(office.key_holder.signing_key, ISSUE, wrong))


@pytest.mark.parametrize(
    "changed",
    [
        {"owner": str(BIRCH_ID)},
        {"key_version": 2},
        {"model_version": 2},
        {"patch_size": 8},
        {"key_id": "birch.cells"},
    ],
)
def test_a_statement_about_something_else_is_an_operators_business(
    office: Office, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    begin(office)
    office.settle()
    wrong = said(office, **changed)
    monkeypatch.setattr(office.key_holder, "prepare", lambda *_: wrong)
    office.confirm(KEY, 1)
    office.settle()

    assert office.open_job("create").state == "needs_operator"
    assert office.issued() == {}


def test_only_the_key_holders_registered_key_counts(office: Office) -> None:
    office.key_holder.signing_key = Ed25519PrivateKey.generate()
    begin(office)
    office.bring_into_use(KEY, 1)

    assert office.open_job("create").state == "needs_operator"
    assert office.issued() == {}


def receipt(office: Office, **changed: object) -> SignedReceipt:
    signed = office.key_holder.destroy(KEY, 1, "a test")
    honest = DestructionReceipt.from_bytes(signed.receipt)
    wrong = replace(honest, **changed).to_bytes()  # type: ignore[arg-type]
    key = office.key_holder.signing_key
    return SignedReceipt(wrong, sign(key, DESTRUCTION, wrong))


@pytest.mark.parametrize(
    "forge",
    [
        lambda office: receipt(office, key_version=2),
        lambda office: receipt(office, key_id="birch.cells"),
        lambda office: receipt(office, commitment="f" * 64),
        lambda office: replace(receipt(office), signature=bytes(64)),
        lambda _: SignedReceipt(b"", b""),
        lambda office: SignedReceipt(
            b"{}", sign(office.key_holder.signing_key, DESTRUCTION, b"{}")
        ),
    ],
)
def test_without_a_receipt_for_it_no_key_is_destroyed(
    office: Office,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[Office], SignedReceipt],
) -> None:
    office.active_key()
    forged = forge(office)
    monkeypatch.setattr(office.key_holder, "destroy", lambda *_: forged)
    office.revoke()
    office.settle()

    assert office.open_job("revoke").state == "needs_operator"
    assert office.states() == {(KEY, 1): "destroy_scheduled"}


def test_a_seed_drawn_by_a_call_that_nobody_waited_for_is_destroyed_too(
    office: Office,
) -> None:
    """Revoked meanwhile, we never learned its commitment; its receipt names one."""
    begin(office)
    meddler = Meddler(office, "draw", office.revoke)
    office.settle(office.engine(meddler, meddler))

    assert (KEY, 1) in office.key_holder.keys
    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.entries("key.destroyed")[0].subject["receipt_sha256"] != ""


# The table


def test_the_crash_tests_do_every_step_there_is(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for `confirm`: `keys.confirm` moves a job past it, unless it was retried."""
    done: set[tuple[str, str]] = set()

    def noting(key: tuple[str, str], procedure: Procedure) -> Procedure:
        def do(work: Work) -> None:
            done.add(key)
            procedure(work)

        return do

    noted = {key: noting(key, procedure) for key, procedure in STEPS.items()}
    monkeypatch.setattr(engines, "STEPS", noted)
    test_job_crashes.play(office, list(test_job_crashes.STAGES))

    unconfirmed = {(Kind.CREATE, Step.CONFIRM), (Kind.ROTATE, Step.CONFIRM)}
    assert done == set(STEPS) - unconfirmed


def test_every_kind_of_job_has_steps() -> None:
    assert {kind for kind, _ in STEPS} == set(Kind)
    assert {step for _, step in STEPS} == set(Step)

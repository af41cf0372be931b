"""Leases and fences: one job is worked on by one process at a time, and ends once."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import Conflict, ConstraintConflict, NotFound
from orchestrator.registry import store
from orchestrator.registry.lifecycle import JobState
from orchestrator.registry.models import Job
from orchestrator.workflows import jobs, leases
from orchestrator.workflows.engine import Engine
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.leases import Lease, LeaseLost
from orchestrator.workflows.workers import running
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    Office,
    spiffe,
)

KEY = "alder.cells"
LEASE_MS = 15_000


def open_one(office: Office, subject: str = "key:a", kind: Kind = Kind.RELEASE) -> int:
    with office.change() as change:
        job = jobs.new(
            change, kind, subject, Step.CHILDREN, arguments={"model": "cells"}
        )
        change.session.flush()
        return job.id


def claim(office: Office, holder: str, limit: int = 10) -> list[Lease]:
    with office.registry.own_change() as change:
        return leases.claim(change, holder, LEASE_MS, limit)


def job(session: Session, job_id: int) -> Job:
    return session.get_one(Job, job_id)


@pytest.fixture
def idle(office: Office) -> Office:
    """An office whose first release is done: no job is open."""
    office.settle()
    assert office.jobs(open_only=True) == []
    return office


def test_a_leased_job_is_not_leased_again_until_the_lease_is_over(idle: Office) -> None:
    open_one(idle)
    (first,) = claim(idle, "a")
    idle.clock.pass_seconds(14.999)
    assert claim(idle, "b") == []
    idle.clock.pass_seconds(0.001)
    (second,) = claim(idle, "b")

    assert (first.holder, second.holder) == ("a", "b")
    assert second.fence == first.fence + 1
    assert second.until_ms == idle.clock.now_ms + LEASE_MS


def test_whoever_lost_a_lease_writes_nothing(idle: Office) -> None:
    job_id = open_one(idle)
    (lost,) = claim(idle, "a")
    idle.clock.pass_seconds(15)
    (held,) = claim(idle, "b")
    with pytest.raises(LeaseLost), idle.registry.own_change() as change:
        jobs.finish(change, leases.held(change.session, lost))

    with idle.registry.own_change() as change:
        assert job(change.session, job_id).state == JobState.READY
        jobs.finish(change, leases.held(change.session, held))
    assert idle.jobs()[-1][2] == "done"


def test_an_earlier_lease_of_the_same_process_counts_no_more(idle: Office) -> None:
    open_one(idle)
    (lost,) = claim(idle, "a")
    idle.clock.pass_seconds(15)
    claim(idle, "a")

    with pytest.raises(LeaseLost), idle.registry.own_change() as change:
        leases.held(change.session, lost)


def test_a_lease_that_was_given_back_counts_no_more(idle: Office) -> None:
    open_one(idle)
    (lost,) = claim(idle, "a")
    with idle.registry.own_change() as change:
        leases.give_back(change, "a")

    with pytest.raises(LeaseLost), idle.registry.own_change() as change:
        leases.held(change.session, lost)


def test_a_lease_for_another_step_counts_no_more(idle: Office) -> None:
    """Somebody moved the job on while it was worked on."""
    job_id = open_one(idle)
    (lease,) = claim(idle, "a")
    with idle.registry.own_change() as change:
        jobs.advance(change, job(change.session, job_id), Step.ISSUE_ALL)

    with pytest.raises(LeaseLost), idle.registry.own_change() as change:
        leases.held(change.session, lease)


def test_a_job_that_was_given_up_or_never_was_is_nobodys(idle: Office) -> None:
    job_id = open_one(idle)
    (lease,) = claim(idle, "a")
    with idle.registry.own_change() as change:
        jobs.abort(change, job(change.session, job_id), "changed my mind")

    for lost in (lease, replace(lease, job_id=999)):
        with pytest.raises(LeaseLost), idle.registry.own_change() as change:
            leases.held(change.session, lost)


def test_the_longest_due_is_leased_first(idle: Office) -> None:
    """Whether it is ready or has waited for its time."""
    ids = []
    for number in range(3):
        ids.append(open_one(idle, f"key:{number}"))
        idle.clock.pass_seconds(1)
    with idle.registry.own_change() as change:
        at_ms = change.now_ms - 500
        jobs.wait(change, job(change.session, ids[0]), "a while", at_ms=at_ms)

    assert [lease.job_id for lease in claim(idle, "a", limit=2)] == [ids[1], ids[2]]
    assert [lease.job_id for lease in claim(idle, "a")] == [ids[0]]


def test_steps_that_are_barred_are_not_leased(idle: Office) -> None:
    open_one(idle)
    with idle.registry.own_change() as change:
        assert leases.claim(change, "a", LEASE_MS, 5, {Step.CHILDREN}) == []
        assert len(leases.claim(change, "a", LEASE_MS, 5, {Step.DRAW})) == 1


def test_what_waits_for_an_event_is_not_due_until_it_is_woken(idle: Office) -> None:
    job_id = open_one(idle)
    with idle.registry.own_change() as change:
        jobs.wait(change, job(change.session, job_id), "for somebody")
    idle.clock.pass_seconds(1e6)
    assert claim(idle, "a") == []
    with idle.registry.own_change() as change:
        jobs.wake(change, job(change.session, job_id))

    assert len(claim(idle, "a")) == 1


def test_only_what_waits_is_woken(idle: Office) -> None:
    job_id = open_one(idle)
    with idle.registry.own_change() as change:
        row = job(change.session, job_id)
        jobs.leave_to_operator(change, row, "look at it", "Mystery")
        jobs.wake(change, row)

        assert row.state == JobState.NEEDS_OPERATOR


def test_a_subject_has_one_open_job(idle: Office) -> None:
    job_id = open_one(idle)
    with pytest.raises(ConstraintConflict):
        open_one(idle)
    with idle.registry.own_change() as change:
        found = jobs.open_on(change.session, "key:a")
        assert found is not None
        assert found.id == job_id
        jobs.finish(change, found)

    assert open_one(idle) > job_id


def test_a_parent_is_woken_by_the_end_of_its_last_child(idle: Office) -> None:
    parent_id = open_one(idle)
    with idle.registry.own_change() as change:
        parent = job(change.session, parent_id)
        jobs.wait(change, parent, "for its children")
        made = [
            jobs.new(change, Kind.ISSUE, f"i{n}", Step.SEND, parent_id=parent_id)
            for n in range(2)
        ]
        change.session.flush()
        jobs.finish(change, made[1])
        assert parent.state == JobState.WAITING
        jobs.abort(change, made[0], "no")

        assert parent.state == JobState.READY
        assert list(jobs.children(change.session, parent)) == []


def test_a_job_that_has_ended_is_not_tried_again(idle: Office) -> None:
    job_id = open_one(idle)
    with idle.registry.own_change() as change:
        jobs.finish(change, job(change.session, job_id))

    with pytest.raises(Conflict), idle.change() as change:
        jobs.retry(change, job(change.session, job_id))
    with pytest.raises(NotFound), idle.change() as change:
        jobs.named(change.session, 999)


def test_nothing_is_written_when_nothing_is_due(
    idle: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = idle.engine()
    monkeypatch.setattr(idle.database, "transaction", None)

    assert not engine.run_once()


# Engines


def steal(office: Office) -> None:
    """The lease runs out in the middle of a step, and another engine does it."""
    office.clock.pass_seconds(15)
    office.settle()


@pytest.mark.parametrize("during", ["draw", "prepare", "send", "delete", "destroy"])
def test_a_step_that_outlives_its_lease_happens_once(
    office: Office, during: str
) -> None:
    office.grant()
    meddler = Meddler(office, during, lambda: steal(office))
    slow = office.engine(meddler, meddler)
    office.create()
    office.settle(slow)
    office.confirm(KEY, 1)
    office.settle(slow)
    office.revoke()
    office.settle(slow)

    assert meddler.done == [during]
    assert office.states() == {(KEY, 1): "destroyed"}
    twice = {kind for kind, count in Counter(office.kinds()[12:]).items() if count > 1}
    assert twice == set()


def test_two_engines_share_the_work_and_do_nothing_twice(office: Office) -> None:
    owners = [spiffe(f"owner-{number}", "data-owner") for number in range(12)]
    with office.registry.own_change() as change:
        for owner in owners:
            store.enrol(change, owner)
    for owner in owners:
        office.grant(owner)
        office.create(owner)
    with running(office.engine()), running(office.engine()):
        wait_until(lambda: len(office.entries("key.drawn")) == len(owners))
        for owner in owners:
            office.confirm(f"{owner.organisation}.cells", 1)
        wait_until(lambda: len(office.entries("key.activated")) == len(owners))

    assert set(office.states().values()) == {"active"}
    for kind in ("key.drawn", "issued.prepared", "issued.live", "key.activated"):
        named = Counter(entry.subject["key_id"] for entry in office.entries(kind))
        assert set(named.values()) == {1}, kind
    assert max(office.key_holder.calls.values()) == len(owners)


def test_an_engine_that_stops_gives_its_leases_back(office: Office) -> None:
    """Also of what it had leased and not begun; what it had begun is finished."""
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        assert go_on.wait(30)

    for owner in (ALDER_ID, BIRCH_ID):
        office.grant(owner)
        office.create(owner)
    meddler = Meddler(office, "draw", hang)
    engine = office.engine(meddler, meddler, workers=1)
    with running(engine):
        assert began.wait(30)
        threading.Timer(0.2, go_on.set).start()

    with office.database.reading() as session:
        leased = session.scalars(select(Job).where(Job.lease_holder.is_not(None))).all()
    assert leased == []
    assert len(office.entries("key.drawn")) >= 1


def test_a_peer_that_hangs_holds_up_nobody_else(office: Office) -> None:
    """Alder's deletion hangs at the inference server; birch's key is drawn."""
    office.active_key(ALDER_ID)
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        assert go_on.wait(30)

    meddler = Meddler(office, "delete", hang)
    with running(office.engine(meddler, meddler)):
        office.revoke(ALDER_ID)
        assert began.wait(30)
        office.grant(BIRCH_ID)
        office.create(BIRCH_ID)
        wait_until(lambda: ("birch.cells", 1) in office.key_holder.keys)
        assert office.states()[KEY, 1] == "destroy_scheduled"
        go_on.set()
        wait_until(lambda: office.states()[KEY, 1] == "destroyed")


def test_a_lease_that_is_half_over_begins_no_call(office: Office) -> None:
    """The call could outlive it, and another engine would make it at the same time."""
    office.grant()
    office.create()
    engine = office.engine()
    (release, create) = engine.claim(5)
    assert (release.kind, create.kind) == ("release", "create")
    office.clock.pass_seconds(6)
    engine.work_on(create)

    assert office.key_holder.calls["draw"] == 0
    assert [lease.kind for lease in office.engine().claim(5)] == ["create"]


def test_a_job_that_somebody_else_moved_on_is_not_kept_from_others(
    office: Office,
) -> None:
    """The step writes nothing, and its lease would hold up the next one."""
    office.grant()
    office.create()
    engine = office.engine()
    (_, create) = engine.claim(5)
    with office.change() as change:
        jobs.advance(change, job(change.session, create.job_id), Step.PREPARE)
    engine.work_on(create)

    found = {lease.job_id: lease.step for lease in office.engine().claim(5)}
    assert found == {create.job_id: "prepare"}


def test_what_happens_makes_the_engine_look_at_once(office: Office) -> None:
    """Not only when it polls: whoever opens or wakes a job rings."""
    bell = office.registry.work
    bell.clear()
    office.grant()
    assert not bell.is_set(), "a grant is no work"
    office.create()
    assert bell.is_set()
    office.settle()
    bell.clear()
    office.confirm(KEY, 1)

    assert bell.is_set()


def test_a_broken_database_does_not_end_the_engine(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def broken(_engine: Engine, _limit: int) -> list[Lease]:
        tried.set()
        raise OSError

    office.grant()
    with running(office.engine()):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "claim", broken)
            tried.clear()
            assert tried.wait(30)
        office.create()
        wait_until(lambda: (KEY, 1) in office.key_holder.keys)


def test_a_lease_nobody_works_on_any_more_is_taken_over(office: Office) -> None:
    office.grant()
    office.create()
    office.engine().claim(5)
    office.settle()
    assert office.key_holder.calls["draw"] == 0
    office.clock.pass_seconds(15)
    office.settle()

    assert office.key_holder.calls["draw"] == 1


def test_a_row_that_was_tampered_with_is_refused_by_the_database(
    office: Office,
) -> None:
    with pytest.raises(ConstraintConflict), office.registry.own_change() as change:
        change.session.execute(update(Job).values(lease_holder="x"))


def wait_until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1500):
        if holds():
            return
        pause.wait(0.02)
    raise AssertionError("it did not happen")

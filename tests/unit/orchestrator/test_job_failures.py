"""What fails: some of it passes by itself, the rest is an operator's business."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode
from sqlalchemy import select

from core.errors import (
    Conflict,
    KeymixerError,
    KeyRefusedError,
    NotFound,
    PeerUnavailable,
    SignatureError,
    StorageError,
)
from core.rpc.errors import RemoteError, RemoteUnavailableError
from orchestrator.registry.models import Job
from orchestrator.workflows import jobs, undoing
from orchestrator.workflows.doubts import Doubts
from orchestrator.workflows.failures import pause_ms
from tests.unit.orchestrator.meddling import Meddler
from tests.unit.orchestrator.office import ALDER_ID, BIRCH_ID, MODEL, Office

KEY = "alder.cells"


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def remote(status: StatusCode, kind: str = "Something") -> RemoteError:
    return RemoteError(kind, "a hint", status, peer="key holder")


def begin(office: Office) -> None:
    office.grant()
    office.create()


def retry(office: Office, job_id: int) -> None:
    with office.change() as change:
        jobs.retry(change, jobs.named(change.session, job_id))


def abort(office: Office, job_id: int, reason: str = "no use") -> Job:
    with office.change() as change:
        return undoing.give_up(change, office.policies, job_id, reason)


# What passes by itself


def test_a_peer_that_is_away_is_asked_again_ever_later_and_without_end(
    office: Office,
) -> None:
    begin(office)
    office.key_holder.away = True
    pauses = []
    for _ in range(40):
        office.settle()
        job = office.open_job("create")
        assert (job.state, job.step) == ("waiting", "draw")
        assert job.next_at_ms is not None
        pauses.append(job.next_at_ms - office.clock.now_ms)
        office.clock.pass_seconds(pauses[-1] / 1000)

    assert pauses[:5] == [200, 400, 800, 1600, 3200]
    assert pauses[8:] == [30_000] * 32
    assert office.open_job("create").attempts == 40
    assert "away" in office.open_job("create").why
    office.key_holder.away = False
    office.settle()
    assert (office.open_job("create").attempts, office.open_job("create").why) == (
        0,
        "the owner has not fetched and confirmed it yet",
    )
    assert office.kinds().count("key.drawn") == 1


def test_a_pause_is_bounded_however_often_it_failed() -> None:
    assert [pause_ms(n) for n in (0, 1, 7, 8, 1000)] == [200, 400, 25600, 30000, 30000]


@pytest.mark.parametrize(
    "error",
    [
        PeerUnavailable("gone"),
        StorageError("its disk is full"),
        RemoteUnavailableError("AuditUnavailable", "", StatusCode.UNAVAILABLE),
        remote(StatusCode.DEADLINE_EXCEEDED),
        remote(StatusCode.RESOURCE_EXHAUSTED, "TooManyStreams"),
    ],
)
def test_what_may_pass_by_itself_is_waited_for(
    office: Office, monkeypatch: pytest.MonkeyPatch, error: KeymixerError
) -> None:
    monkeypatch.setattr(office.key_holder, "draw", raising(error))
    begin(office)
    office.settle()

    assert office.open_job("create").state == "waiting"


@pytest.mark.parametrize("error", [NotFound("no"), remote(StatusCode.NOT_FOUND)])
@pytest.mark.parametrize("call", ["prepare", "send"])
def test_what_may_still_be_uploaded_is_waited_for(
    office: Office, monkeypatch: pytest.MonkeyPatch, call: str, error: KeymixerError
) -> None:
    begin(office)
    office.settle()
    with monkeypatch.context() as patch:
        patch.setattr(office.key_holder, call, raising(error))
        office.confirm(KEY, 1)
        office.settle()
        assert office.open_job("create").state == "waiting"
    office.clock.pass_seconds(1)
    office.settle()

    assert office.states() == {(KEY, 1): "active"}


# What does not


@pytest.mark.parametrize(
    "error",
    [
        SignatureError("forged"),
        Conflict("drawn before with other parameters"),
        NotFound("what is drawn cannot be missing"),
        remote(StatusCode.NOT_FOUND),
        remote(StatusCode.FAILED_PRECONDITION, "KeyIdentity"),
        remote(StatusCode.PERMISSION_DENIED, "NotAllowed"),
        remote(StatusCode.RESOURCE_EXHAUSTED, "TooLarge"),
    ],
)
def test_what_does_not_pass_by_itself_needs_an_operator(
    office: Office, monkeypatch: pytest.MonkeyPatch, error: KeymixerError
) -> None:
    monkeypatch.setattr(office.key_holder, "draw", raising(error))
    begin(office)
    office.settle()

    job = office.open_job("create")
    assert job.state == "needs_operator"
    assert job.why.startswith(f"{error.kind}: {error}")
    assert f"`keymixer jobs retry {job.id}`" in job.why
    assert f"`keymixer jobs abort {job.id}`" in job.why
    (entry,) = office.entries("job.needs_operator")
    assert entry.subject == {
        "job": job.id,
        "job_kind": "create",
        "job_subject": "key:alder.cells",
        "step": "draw",
        "error": error.kind,
    }
    office.clock.pass_seconds(1e6)
    office.settle()
    assert len(office.entries("job.needs_operator")) == 1, "nobody tries it again"


@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), None])
def test_a_bug_is_given_three_tries_and_not_quoted(
    office: Office, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    error = error or remote(StatusCode.INTERNAL, "Internal")
    monkeypatch.setattr(office.key_holder, "draw", raising(error))
    begin(office)
    for _ in range(2):
        office.settle()
        assert office.open_job("create").state == "waiting"
        office.clock.pass_seconds(30)
    office.settle()

    assert office.open_job("create").state == "needs_operator"
    assert "a secret" not in office.open_job("create").why
    assert "a secret" not in repr([entry.subject for entry in office.entries()])


def test_an_outage_uses_up_none_of_a_bugs_tries(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(office)
    office.key_holder.away = True
    for _ in range(5):
        office.settle()
        office.clock.pass_seconds(30)
    office.key_holder.away = False
    with monkeypatch.context() as patch:
        patch.setattr(office.key_holder, "draw", raising(ZeroDivisionError()))
        office.settle()

    assert office.open_job("create").state == "waiting"


def test_one_poisoned_job_holds_up_no_other(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.active_key(ALDER_ID)
    monkeypatch.setattr(office.server, "delete", raising(SignatureError("odd")))
    office.revoke(ALDER_ID)
    office.settle()
    office.active_key(BIRCH_ID)

    assert office.states() == {
        (KEY, 1): "destroy_scheduled",
        ("birch.cells", 1): "active",
    }


def test_a_failure_that_cannot_be_noted_is_tried_again_after_the_lease(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database went away together with the peer."""
    begin(office)
    engine = office.engine()
    (release, create) = engine.claim(2)
    engine.work_on(release)
    office.key_holder.away = True
    with monkeypatch.context() as patch:
        patch.setattr(office.database, "transaction", raising(StorageError("full")))
        engine.work_on(create)
    office.key_holder.away = False
    office.settle()
    assert office.kinds().count("key.drawn") == 0
    office.clock.pass_seconds(15)
    office.settle()

    assert office.kinds().count("key.drawn") == 1


# What an operator does


def poisoned(office: Office, monkeypatch: pytest.MonkeyPatch, call: str) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(office.key_holder, call, raising(SignatureError("odd")))
        office.settle()
    (found,) = [j for j in office.open_rows() if j.state == "needs_operator"]
    return found.id


def test_an_operator_has_it_tried_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(office)
    job_id = poisoned(office, monkeypatch, "draw")
    retry(office, job_id)
    office.settle()

    assert office.open_job("create").step == "confirm"
    assert office.open_job("create").attempts == 0
    assert [e.subject["job"] for e in office.entries("job.retried")] == [job_id]


def test_what_waits_for_a_peer_may_be_tried_at_once(office: Office) -> None:
    begin(office)
    office.key_holder.away = True
    office.settle()
    office.key_holder.away = False
    retry(office, office.open_job("create").id)
    office.settle()

    assert (KEY, 1) in office.key_holder.keys


def test_a_first_key_that_is_given_up_is_destroyed(office: Office) -> None:
    begin(office)
    office.settle()
    job = abort(office, office.open_job("create").id)
    office.settle()

    assert (job.state, job.why) == ("aborted", "given up by an operator: no use")
    assert office.states() == {(KEY, 1): "destroyed"}
    (entry,) = office.entries("job.aborted")
    assert "no use" in str(entry.subject["reason"])
    assert office.create() == (KEY, 2)


def test_a_rotation_that_is_given_up_leaves_the_old_version_in_use(
    office: Office,
) -> None:
    office.active_key()
    office.rotate()
    office.settle()
    abort(office, office.open_job("rotate").id)
    office.settle()

    assert office.states() == {(KEY, 1): "active", (KEY, 2): "destroyed"}
    assert office.primaries() == [(KEY, 1)]
    (made,) = office.rotate()
    assert made.to_version == 3


@pytest.mark.parametrize("during", ["draw", "prepare", "send"])
def test_what_is_given_up_during_a_call_stays_given_up(
    office: Office, during: str
) -> None:
    office.active_key()
    office.rotate()
    meddler = Meddler(
        office, during, lambda: abort(office, office.open_job("rotate").id)
    )
    office.settle(office.engine(meddler, meddler))
    if during != "draw":
        office.confirm(KEY, 2)
        office.settle(office.engine(meddler, meddler))

    assert office.states() == {(KEY, 1): "active", (KEY, 2): "destroyed"}
    assert {issue.key_version for issue in office.server.stored} == {1}


def test_a_rotation_is_not_given_up_once_the_new_version_is_used(
    office: Office,
) -> None:
    office.active_key()
    office.rotate()
    office.bring_into_use(KEY, 2)
    with pytest.raises(Conflict, match="in use"):
        abort(office, office.open_job("rotate").id)

    assert office.open_job("rotate").step == "overlap"
    assert office.entries("job.aborted") == []


def test_a_destruction_that_is_given_up_keeps_the_key_suspended(
    office: Office,
) -> None:
    office.policies = office.policies.model_copy(update={"destroy_window_s": 100.0})
    office.active_key()
    office.revoke()
    office.settle()
    abort(office, office.open_job("revoke").id)

    assert office.states() == {(KEY, 1): "suspended"}
    assert office.jobs(open_only=True) == []


def test_a_destruction_that_has_begun_is_not_given_up(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.active_key()
    office.revoke()
    job_id = poisoned(office, monkeypatch, "destroy")
    with pytest.raises(Conflict, match="has begun"):
        abort(office, job_id)


def test_a_release_that_is_given_up_takes_what_it_started_with_it(
    office: Office,
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.key_holder.embeddings = {(MODEL, 1)}
    office.release()
    office.settle()
    abort(office, office.open_job("release").id)
    office.clock.pass_seconds(60)
    office.settle()

    assert office.jobs(open_only=True) == []
    assert office.issued() == {(KEY, 1, 1): "live", ("birch.cells", 1, 1): "live"}
    assert len(office.entries("job.aborted")) == 3


def test_what_has_ended_is_not_given_up(office: Office) -> None:
    office.active_key()
    with office.database.reading() as session:
        job_id = session.scalars(select(Job.id)).first()

    assert job_id is not None
    with pytest.raises(Conflict):
        abort(office, job_id)
    with pytest.raises(NotFound):
        abort(office, 999)


# A peer that hangs


def test_a_step_whose_peer_was_away_is_tried_by_one_job_at_a_time() -> None:
    doubts = Doubts()
    assert [doubts.enter("send"), doubts.enter("send")] == [True, True]
    doubts.leave("send", peer_was_away=True)
    doubts.leave("send", peer_was_away=True)

    assert [doubts.enter("send"), doubts.enter("send")] == [True, False]
    assert doubts.enter("draw")
    assert doubts.barred(most=2) == {"send"}
    doubts.leave("send", peer_was_away=False)
    assert [doubts.enter("send"), doubts.enter("send")] == [True, True]
    assert doubts.barred(most=2) == set()


def test_doubtful_steps_never_take_all_workers() -> None:
    doubts = Doubts()
    for step in ("send", "delete", "draw"):
        doubts.enter(step)
        doubts.leave(step, peer_was_away=True)
    assert doubts.barred(most=1) == set()
    doubts.enter("send")

    assert doubts.barred(most=1) == {"send", "delete", "draw"}
    assert doubts.barred(most=2) == {"send"}


def test_one_worker_alone_still_tries_what_is_doubtful(office: Office) -> None:
    begin(office)
    engine = office.engine(workers=1)
    office.key_holder.away = True
    office.settle(engine)
    office.key_holder.away = False
    office.clock.pass_seconds(1)
    office.settle(engine)

    assert (KEY, 1) in office.key_holder.keys


def test_doubts_are_shared_between_threads() -> None:
    doubts = Doubts()
    doubts.leave("send", peer_was_away=True)
    entered: list[bool] = []
    threads = [
        threading.Thread(target=lambda: entered.append(doubts.enter("send")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(entered) == [False] * 19 + [True]


def test_the_key_of_a_deletion_that_fails_can_be_kept_as_it_says(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its window is over, but nobody was asked to destroy the seed."""
    office.active_key()
    office.revoke()
    monkeypatch.setattr(office.server, "delete", raising(Conflict("not now")))
    office.settle()
    job = office.open_job("revoke")
    assert (job.state, job.step) == ("needs_operator", "remove")
    assert f"or `keymixer keys restore {KEY} --version 1`" in job.why
    office.restore(KEY, 1)

    assert office.states() == {(KEY, 1): "suspended"}


def test_a_destruction_that_fails_is_only_tried_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed may be gone already: what cannot be done is not advised."""
    office.active_key()
    office.revoke()
    monkeypatch.setattr(office.key_holder, "destroy", raising(Conflict("not now")))
    office.settle()
    job = office.open_job("revoke")

    assert (job.state, job.step) == ("needs_operator", "destroy")
    assert job.why == f"Conflict: not now; `keymixer jobs retry {job.id}`"
    with pytest.raises(KeyRefusedError, match="has begun"):
        abort(office, job.id)

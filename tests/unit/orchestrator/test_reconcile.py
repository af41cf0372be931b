"""The reconciler: what follows from the rows, however often it is interrupted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.statements import ISSUE, IssueStatement, sign
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, KeyAction, KeyState
from orchestrator.registry.models import IssuedModel
from orchestrator.workflows import keys, steps
from orchestrator.workflows.peers import (
    DrawnKey,
    IssueId,
    KeyToDraw,
    PreparedIssue,
)
from orchestrator.workflows.reconcile import Patience, Reconciler, running
from orchestrator.workflows.steps import KeyName
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    PROVIDER_ID,
    Office,
    copied_office,
    register_model,
)

ALDER = str(ALDER_ID)
KEY = "alder.cells"
Answer = TypeVar("Answer")


def grant_and_create(office: Office) -> None:
    with office.change() as change:
        keys.grant(change, ALDER, MODEL)
        keys.create(change, ALDER, MODEL)


def rotate(office: Office, overlap_s: float = 60.0) -> None:
    with office.change() as change:
        keys.rotate(change, ALDER, MODEL, overlap_s)


def revoke(office: Office) -> None:
    with office.change() as change:
        keys.revoke(change, ALDER, MODEL, "lost")


def test_a_new_key_is_drawn_and_waits_for_its_owner(office: Office) -> None:
    grant_and_create(office)
    office.settle()

    assert office.states() == {(KEY, 1): "pre_active"}
    assert office.key_holder.keys[KEY, 1] == KeyToDraw(KEY, 1, ALDER, MODEL, 4, 3)
    assert office.issued() == {}


def test_a_confirmed_key_becomes_active_with_its_model_issued(office: Office) -> None:
    office.active_key()

    assert office.states() == {(KEY, 1): "active"}
    assert office.primaries() == [(KEY, 1)]
    assert office.issued() == {(KEY, 1, 1): "live"}
    assert office.server.stored == {IssueId(KEY, 1, MODEL, 1)}


def test_the_champion_is_issued_even_if_it_is_not_the_newest(office: Office) -> None:
    register_model(office, seed=1)
    with office.change(PROVIDER_ID) as change:
        store.set_alias(change, MODEL, store.CHAMPION, 1)
    office.active_key()

    assert office.issued() == {(KEY, 1, 1): "live"}


def test_a_new_champion_is_issued_under_the_keys_in_use(office: Office) -> None:
    office.active_key()
    register_model(office, seed=1)
    with office.change(PROVIDER_ID) as change:
        store.set_alias(change, MODEL, store.CHAMPION, 2)
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live", (KEY, 1, 2): "live"}
    assert office.states() == {(KEY, 1): "active"}


def test_a_newer_version_with_other_patches_is_passed_over(office: Office) -> None:
    """Without a champion a key is issued what it fits: not 3, whose patches are 8."""
    grant_and_create(office)
    register_model(office, seed=1)
    register_model(office, patch_size=8)
    office.settle()
    office.confirm(KEY, 1)
    office.settle()

    assert office.issued() == {(KEY, 1, 2): "live"}
    assert office.key_holder.calls["prepare"] == 1


def test_a_newer_version_is_issued_under_the_keys_in_use(office: Office) -> None:
    office.active_key()
    register_model(office, patch_size=8)
    register_model(office, seed=1)
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live", (KEY, 1, 3): "live"}


def test_a_champion_that_fits_no_key_is_asked_of_nobody(office: Office) -> None:
    office.active_key()
    version = register_model(office, patch_size=8)
    with office.change(PROVIDER_ID) as change:
        store.set_alias(change, MODEL, store.CHAMPION, version)
    office.settle()

    assert office.issued() == {(KEY, 1, 1): "live"}
    assert office.key_holder.calls["prepare"] == 1


def test_in_a_rotation_old_and_new_are_both_served(office: Office) -> None:
    office.active_key()
    rotate(office)
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
    rotate(office, overlap_s=60.0)
    office.settle()
    office.confirm(KEY, 2)
    office.settle()
    office.clock.pass_seconds(59.9)
    office.settle()
    assert office.states()[KEY, 1] == "retiring"
    office.clock.pass_seconds(0.1)
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed", (KEY, 2): "active"}
    assert office.issued() == {(KEY, 1, 1): "gone", (KEY, 2, 1): "live"}
    assert office.server.stored == {IssueId(KEY, 2, MODEL, 1)}
    assert office.key_holder.destroyed == {(KEY, 1)}


def test_a_revoked_key_is_deleted_and_destroyed(office: Office) -> None:
    office.active_key()
    revoke(office)
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.issued() == {(KEY, 1, 1): "gone"}
    assert office.server.stored == set()
    assert office.key_holder.destroyed == {(KEY, 1)}


def test_a_key_revoked_before_it_was_drawn_is_destroyed_too(office: Office) -> None:
    grant_and_create(office)
    revoke(office)
    office.settle()

    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.key_holder.calls["draw"] == 0


def test_every_step_is_recorded_by_the_orchestrator(office: Office) -> None:
    before = len(office.kinds())
    office.active_key()
    revoke(office)
    office.settle()

    assert office.kinds()[before:] == [
        *("model.granted", "key.created", "key.drawn", "key.confirmed"),
        *("issued.prepared", "issued.live", "key.activated"),
        *("key.revoked", "issued.retiring", "issued.gone", "key.destroyed"),
    ]
    drawn = office.entries("key.drawn")[0]
    assert (drawn.actor, drawn.subject["owner"]) == (str(ORCHESTRATOR_ID), ALDER)


@dataclass
class Meddler:
    """A key holder during whose calls something else happens."""

    office: Office
    during: str
    happens: Callable[[], None]

    def draw(self, key: KeyToDraw) -> DrawnKey:
        return self._called("draw", lambda: self.office.key_holder.draw(key))

    def prepare(self, issue: IssueId) -> PreparedIssue:
        return self._called("prepare", lambda: self.office.key_holder.prepare(issue))

    def send(self, issue: IssueId) -> None:
        self._called("send", lambda: self.office.key_holder.send(issue))

    def destroy(self, key_id: str, version: int) -> None:
        self.office.key_holder.destroy(key_id, version)

    def _called(self, name: str, call: Callable[[], Answer]) -> Answer:
        answer = call()
        if name == self.during:
            self.happens()
        return answer


@pytest.mark.parametrize("during", ["draw", "prepare", "send"])
def test_a_key_revoked_during_a_call_stays_revoked(office: Office, during: str) -> None:
    meddler = Meddler(office, during, lambda: revoke(office))
    reconciler = replace(office.reconciler, key_holder=meddler)
    grant_and_create(office)
    while reconciler.run_once():
        pass
    if during != "draw":
        office.confirm(KEY, 1)
        while reconciler.run_once():
            pass

    assert office.states() == {(KEY, 1): "destroyed"}
    assert office.server.stored == set()
    assert office.key_holder.destroyed == {(KEY, 1)}
    assert not {"issued.live", "key.activated"} & set(office.kinds())


def test_a_key_compromised_while_its_model_is_sent_does_not_go_live(
    office: Office,
) -> None:
    grant_and_create(office)
    office.settle()
    office.confirm(KEY, 1)

    def compromise() -> None:
        with office.change() as change:
            row = store.key_version(change.session, KEY, 1)
            store.move(change, row, KeyAction.COMPROMISE, "key.compromised")

    meddler = Meddler(office, "send", compromise)
    reconciler = replace(office.reconciler, key_holder=meddler)
    while reconciler.run_once():
        pass

    assert office.issued() == {(KEY, 1, 1): "pending"}


def test_a_revoked_keys_models_are_expected_no_more(office: Office) -> None:
    """At once: the inference server stores only what is `pending` or `live`."""
    office.active_key()
    revoke(office)

    assert office.issued() == {(KEY, 1, 1): "retiring"}


def test_a_model_on_its_way_is_expected_no_more_once_its_key_expires(
    office: Office,
) -> None:
    office.active_key()
    with office.change() as change:
        version = store.key_version(change.session, KEY, 1)
        version.state, version.is_primary = KeyState.RETIRING, False
        version.retire_at_ms = change.now_ms
        change.session.scalars(select(IssuedModel)).one().state = IssuedState.PENDING
    with office.change() as change:
        steps.record_expired(change, KeyName(KEY, 1))

    assert office.states() == {(KEY, 1): "destroy_scheduled"}
    assert office.issued() == {(KEY, 1, 1): "retiring"}


def test_a_key_does_not_expire_before_its_time(office: Office) -> None:
    office.active_key()
    rotate(office, overlap_s=60.0)
    office.settle()
    office.confirm(KEY, 2)
    office.settle()
    office.clock.pass_seconds(59.999)
    with office.change() as change:
        steps.record_expired(change, KeyName(KEY, 1))

    assert office.states()[KEY, 1] == "retiring"
    assert "key.expired" not in office.kinds()


def test_a_key_that_was_drawn_keeps_its_first_commitment(office: Office) -> None:
    grant_and_create(office)
    key = KeyToDraw(KEY, 1, ALDER, MODEL, 4, 3)
    for byte in (b"1", b"2"):
        with office.change() as change:
            steps.record_drawn(change, key, DrawnKey("fake-v1", byte * 32))

    with office.database.reading() as session:
        assert store.key_version(session, KEY, 1).commitment == b"1" * 32
    assert len(office.entries("key.drawn")) == 1


def statement_for(office: Office, **changed: object) -> PreparedIssue:
    prepared = office.key_holder.prepare(IssueId(KEY, 1, MODEL, 1))
    statement = IssueStatement.from_bytes(prepared.statement)
    said = replace(statement, **changed).to_bytes()  # type: ignore[arg-type]
    return PreparedIssue(said, sign(office.key_holder.signing_key, ISSUE, said))


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
def test_a_statement_about_something_else_is_not_accepted(
    office: Office, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    grant_and_create(office)
    office.settle()
    office.confirm(KEY, 1)
    prepared = statement_for(office, **changed)
    monkeypatch.setattr(office.key_holder, "prepare", lambda _: prepared)

    assert not office.reconciler.run_once()
    assert office.issued() == {}


def test_only_the_key_holders_registered_key_counts(office: Office) -> None:
    office.key_holder.signing_key = Ed25519PrivateKey.generate()
    grant_and_create(office)
    office.settle()
    office.confirm(KEY, 1)

    assert not office.reconciler.run_once()
    assert office.issued() == {}


def test_a_peer_that_is_away_is_asked_again(office: Office) -> None:
    office.key_holder.away = True
    grant_and_create(office)
    office.settle()
    assert office.key_holder.calls["draw"] == 1
    office.key_holder.away = False
    office.settle()

    assert office.kinds().count("key.drawn") == 1


def test_an_inference_server_that_is_away_holds_up_no_other_key(
    office: Office,
) -> None:
    office.active_key(ALDER_ID)
    office.server.away = True
    revoke(office)
    office.settle()
    with office.change() as change:
        keys.grant(change, str(BIRCH_ID), MODEL)
        keys.create(change, str(BIRCH_ID), MODEL)
    office.settle()

    assert office.states()[KEY, 1] == "destroy_scheduled"
    assert office.key_holder.destroyed == set()
    assert ("birch.cells", 1) in office.key_holder.keys


def test_an_embedding_that_comes_late_is_waited_for(office: Office) -> None:
    office.key_holder.embeddings = set()
    office.active_key()
    assert office.states() == {(KEY, 1): "pre_active"}
    office.key_holder.embeddings.add((MODEL, 1))
    office.settle()

    assert office.states() == {(KEY, 1): "active"}


def test_patience_doubles_up_to_its_bound_and_forgets_after_success() -> None:
    now = [0.0]
    patience = Patience(first_s=0.2, longest_s=1.0, clock=lambda: now[0])
    pauses = [patience.failed("row") for _ in range(5)]

    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert not patience.ready("row")
    assert patience.ready("another row")
    now[0] = 1.0
    assert patience.ready("row")
    patience.succeeded("row")
    assert patience.failed("row") == 0.2


def test_a_row_that_fails_is_left_alone_for_a_while(office: Office) -> None:
    office.patience = Patience(first_s=3600.0)
    office.key_holder.away = True
    grant_and_create(office)
    reconciler = office.reconciler
    for _ in range(3):
        reconciler.run_once()

    assert office.key_holder.calls["draw"] == 1


def test_not_even_a_bug_ends_the_thread(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Event()

    def stumble(_: KeyToDraw) -> DrawnKey:
        asked.set()
        raise ZeroDivisionError

    monkeypatch.setattr(office.key_holder, "draw", stumble)
    grant_and_create(office)
    with running(office.reconciler):
        assert asked.wait(10)
        monkeypatch.undo()
        deadline = Event()
        while not office.key_holder.keys and not deadline.wait(0.02):
            pass

    assert (KEY, 1) in office.key_holder.keys


def test_a_broken_database_does_not_end_the_thread(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, tried = Event(), Event()

    def broken(_: Reconciler) -> bool:
        tried.set()
        raise OSError

    monkeypatch.setattr(Reconciler, "run_once", broken)
    thread = Thread(target=office.reconciler.run_until, args=(stop,))
    thread.start()
    assert tried.wait(10)

    assert thread.is_alive()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


class Crash(BaseException):
    """The process dies here: nothing catches it."""


@dataclass
class Fuse:
    """Counts the points where a process could die, and dies at one of them."""

    blows_at: int
    passed: int = 0

    def point(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.blows_at:
            raise Crash


@dataclass
class CrashingPeers:
    """Both peers; the caller may die before it asks and before it hears the answer."""

    office: Office
    fuse: Fuse

    def draw(self, key: KeyToDraw) -> DrawnKey:
        return self._ask(lambda: self.office.key_holder.draw(key))

    def prepare(self, issue: IssueId) -> PreparedIssue:
        return self._ask(lambda: self.office.key_holder.prepare(issue))

    def send(self, issue: IssueId) -> None:
        self._ask(lambda: self.office.key_holder.send(issue))

    def destroy(self, key_id: str, version: int) -> None:
        self._ask(lambda: self.office.key_holder.destroy(key_id, version))

    def delete(self, issue: IssueId) -> None:
        self._ask(lambda: self.office.server.delete(issue))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        self.fuse.point()
        answer = call()
        self.fuse.point()
        return answer


def settle_despite_crashes(
    office: Office, fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconcile until idle; a crash is followed by a fresh start."""
    transaction = office.database.transaction

    @contextmanager
    def dying() -> Iterator[Session]:
        with transaction() as session:
            yield session
            session.flush()
            fuse.point()
        fuse.point()

    peers = CrashingPeers(office, fuse)
    with monkeypatch.context() as patch:
        patch.setattr(office.database, "transaction", dying)
        while True:
            reconciler = Reconciler(office.registry, peers, peers, str(KEY_HOLDER_ID))
            try:
                while reconciler.run_once():
                    pass
            except Crash:
                continue
            return


LIFE: tuple[Callable[[Office], None], ...] = (
    grant_and_create,
    lambda office: office.confirm(KEY, 1),
    rotate,
    lambda office: office.confirm(KEY, 2),
    lambda office: office.clock.pass_seconds(60),
    revoke,
)


@contextmanager
def copy_of(office: Office, folder: Path) -> Iterator[Office]:
    """The same three parties once more, on a database of their own."""
    with copied_office(office.folder, folder) as other:
        other.clock.now_ms = office.clock.now_ms
        other.key_holder = deepcopy(office.key_holder)
        other.server = other.key_holder.server
        yield other


def outcome(office: Office) -> dict[str, object]:
    """Everything that all three parties hold."""
    return {
        "states": office.states(),
        "primaries": office.primaries(),
        "issued": office.issued(),
        "records": [(e.kind, e.actor, dict(e.subject)) for e in office.entries()],
        "stored": set(office.server.stored),
        "drawn": dict(office.key_holder.keys),
        "destroyed": set(office.key_holder.destroyed),
    }


@pytest.mark.parametrize("stage", range(len(LIFE)))
def test_a_crash_between_any_two_steps_changes_nothing_in_the_end(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """Records included: every change happens once, and is recorded once."""
    for happens in LIFE[:stage]:
        happens(office)
        office.settle()
    LIFE[stage](office)
    with copy_of(office, tmp_path / "unharmed") as unharmed:
        unbroken = Fuse(blows_at=-1)
        settle_despite_crashes(unharmed, unbroken, monkeypatch)
        expected = outcome(unharmed)
    for point in range(unbroken.passed):
        with copy_of(office, tmp_path / str(point)) as harmed:
            settle_despite_crashes(harmed, Fuse(blows_at=point), monkeypatch)

            assert outcome(harmed) == expected, f"crashed at point {point}"
    assert unbroken.passed >= 4, "a call and a transaction, before and after each"

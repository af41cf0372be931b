"""Whatever operators, owners, peers and crashes do, in any order: what must hold after.

Each example is a history of what happened to a small federation. Afterwards the peers
are back and enough time has passed for everything that can come to its end.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from core.errors import KeymixerError
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, KeyState
from orchestrator.registry.models import Job, KeyVersion
from orchestrator.workflows import issuing, jobs, keys, undoing
from orchestrator.workflows.peers import IssueId
from tests.unit.orchestrator.crashing import Fuse, outcome, settle_despite_crashes
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    Office,
    copied_office,
    make_template,
)

OWNERS = {"alder": ALDER_ID, "birch": BIRCH_ID}
ONCE = ("key.created", "key.drawn", "key.confirmed", "key.activated", "key.destroyed")
WINDOW_S = 300.0
LONG_S = 1e6


def newest(office: Office, owner: str) -> tuple[str, int]:
    key_id = f"{owner}.{MODEL}"
    return max(name for name in office.states() if name[0] == key_id)


def confirm(office: Office, owner: str) -> None:
    office.confirm(*newest(office, owner))


def restore(office: Office, owner: str) -> None:
    key_id, version = newest(office, owner)
    office.restore(key_id, version)


def destroy(office: Office, owner: str) -> None:
    with office.change() as change:
        keys.destroy_now(change, *newest(office, owner))


def expel(office: Office, owner: str) -> None:
    with office.change() as change:
        keys.revoke_party(change, office.policies, str(OWNERS[owner]), "left")


def give_up(office: Office, owner: str) -> None:
    """The newest open job, whoever's it is."""
    job = office.open_rows()[-1]
    with office.change() as change:
        undoing.give_up(change, office.policies, job.id, "no more")


def release(office: Office, letter: str) -> None:
    office.release(len(office.entries("model.registered")), embedding=letter)


BY_OWNER: dict[str, Callable[[Office, str], Any]] = {
    "grant": lambda office, owner: office.grant(OWNERS[owner]),
    "create": lambda office, owner: office.create(OWNERS[owner]),
    "confirm": confirm,
    "rotate": lambda office, owner: office.rotate(OWNERS[owner], 60.0),
    "rotate at once": lambda office, owner: office.rotate(OWNERS[owner], 0.0),
    "suspend": lambda office, owner: office.suspend(OWNERS[owner]),
    "resume": lambda office, owner: office.resume(OWNERS[owner]),
    "revoke": lambda office, owner: office.revoke(OWNERS[owner]),
    "compromise": lambda office, owner: office.compromise(OWNERS[owner]),
    "restore": restore,
    "destroy": destroy,
    "expel": expel,
    "give up": give_up,
}

# Most of a history leads somewhere: these come up more often than what ends a key.
COMMON = ("confirm", "confirm", "rotate", "rotate at once", "suspend", "resume")
happenings = st.one_of(
    st.tuples(
        st.sampled_from([*COMMON, *COMMON, *BY_OWNER]), st.sampled_from([*OWNERS])
    ),
    st.tuples(st.just("release"), st.sampled_from("abcd")),
    st.tuples(st.just("pass"), st.sampled_from([15.0, 60.0, 400.0])),
    st.tuples(st.just("away"), st.sampled_from(["key holder", "server", ""])),
    st.tuples(st.just("work"), st.integers(0, 12)),
    st.tuples(st.just("work"), st.just(None)),
)


def happen(
    office: Office, what: str, more: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with suppress(KeymixerError, IndexError, ValueError):
        if what == "release":
            release(office, more)
        elif what == "pass":
            office.clock.pass_seconds(more)
        elif what == "away":
            office.key_holder.away = more == "key holder"
            office.server.away = more == "server"
        elif what == "work":
            settle_despite_crashes(office, Fuse(blows_at=more), monkeypatch)
        else:
            BY_OWNER[what](office, more)


def come_to_rest(office: Office) -> None:
    office.key_holder.away = office.server.away = False
    for _ in range(4):
        office.settle()
        office.clock.pass_seconds(LONG_S)
    office.settle()


@contextmanager
def fresh_office(template: Path) -> Iterator[Office]:
    with (
        TemporaryDirectory() as folder,
        copied_office(template, Path(folder) / "office") as office,
    ):
        office.policies = office.policies.model_copy(
            update={"destroy_window_s": WINDOW_S}
        )
        for owner in OWNERS.values():
            office.grant(owner)
            office.create(owner)
        office.settle()
        yield office


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_template(folder)
    return folder


@settings(max_examples=40)
@given(history=st.lists(happenings, max_size=25))
def test_whatever_happens_the_federation_comes_to_rest(
    template: Path, history: list[tuple[str, Any]]
) -> None:
    with pytest.MonkeyPatch.context() as patch, fresh_office(template) as office:
        for what, more in history:
            happen(office, what, more, patch)
        come_to_rest(office)

        nothing_happened_twice(office)
        nobody_holds_a_lease(office)
        what_has_ended_is_gone(office)
        the_server_holds_what_the_registry_says(office)
        what_is_in_use_has_the_champion(office)
        no_wake_up_was_lost(office)


def nothing_happened_twice(office: Office) -> None:
    for kind in ONCE:
        named = Counter(
            (entry.subject["key_id"], entry.subject["key_version"])
            for entry in office.entries(kind)
        )
        assert not [name for name, count in named.items() if count > 1], kind
    owners = Counter(key_id for key_id, _ in office.primaries())
    assert set(owners.values()) <= {1}


def nobody_holds_a_lease(office: Office) -> None:
    with office.database.reading() as session:
        leased = session.scalars(select(Job).where(Job.lease_holder.is_not(None)))
        assert leased.all() == []


def what_has_ended_is_gone(office: Office) -> None:
    """No version is forgotten on its way out."""
    states = office.states()
    assert not {KeyState.RETIRING, KeyState.DESTROY_SCHEDULED} & set(states.values())
    destroyed = {name for name, state in states.items() if state == KeyState.DESTROYED}
    assert destroyed == office.key_holder.destroyed


def the_server_holds_what_the_registry_says(office: Office) -> None:
    issued = {
        IssueId(key_id, version, MODEL, model): state
        for (key_id, version, model), state in office.issued().items()
    }
    answers = (IssuedState.LIVE, IssuedState.RETIRING)
    assert {
        i for i, state in issued.items() if state in answers
    } <= office.server.stored
    kept = {i for i, state in issued.items() if state != IssuedState.GONE}
    assert office.server.stored <= kept


def what_is_in_use_has_the_champion(office: Office) -> None:
    with office.database.reading() as session:
        query = store.select_key_versions().where(KeyVersion.state == KeyState.ACTIVE)
        for version in session.scalars(query):
            wanted = issuing.target(session, version.key)
            if wanted is not None and wanted.exposed_at_ms is None:
                issued = issuing.find(session, version, wanted)
                assert issued is not None
                assert issued.state == IssuedState.LIVE


def no_wake_up_was_lost(office: Office) -> None:
    """Whatever waits for an event still has to: looking again changes nothing."""
    before = outcome(office)
    with office.registry.own_change() as change:
        for job in jobs.open_jobs(change.session):
            jobs.wake(change, job)
    office.settle()

    assert outcome(office) == before

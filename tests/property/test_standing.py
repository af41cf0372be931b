"""A copy of the registry's word lets in whom its rows let in, whatever happened before.

The oracle reads the rows themselves, at the moment of the look, and knows nothing of
revisions.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from core.errors import Conflict, KeymixerError
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyAction
from orchestrator.registry.models import Party
from orchestrator.registry.service import RegistryService
from parties.standing import Standing
from protos import registry_pb2 as pb
from tests.fakes import fake_context
from tests.unit.orchestrator.ledger import (
    ALDER_ID,
    BIRCH_ID,
    CLOUD_ID,
    LAB_ID,
    OWNERS,
    Ledger,
    copied_ledger,
    key_id,
    open_ledger,
)


class Add(NamedTuple):
    owner: SpiffeId


class Move(NamedTuple):
    owner: SpiffeId
    number: int
    action: KeyAction


class Revoke(NamedTuple):
    party: SpiffeId


class Wait(NamedTuple):
    seconds: float


class Look(NamedTuple):
    pass


Happening: TypeAlias = Add | Move | Revoke | Wait | Look

owners = st.sampled_from(OWNERS)
adds = st.builds(Add, owners)
moves = st.builds(Move, owners, st.integers(1, 3), st.sampled_from(list(KeyAction)))
revocations = st.builds(Revoke, st.sampled_from([ALDER_ID, BIRCH_ID, LAB_ID]))
waits = st.builds(Wait, st.sampled_from([1.0, 10.0]))
happenings = st.one_of(adds, moves, moves, revocations, waits, st.builds(Look))


def ask(ledger: Ledger, since: int) -> pb.ListStandingResponse:
    with acting_as(CLOUD_ID):
        request = pb.ListStandingRequest(since=since)
        return RegistryService(ledger.registry).ListStanding(request, fake_context())


def newcomer(ledger: Ledger) -> Standing:
    return Standing(partial(ask, ledger), clock=lambda: 0.0, now_ms=ledger.clock)


def let_happen(ledger: Ledger, standing: Standing, happening: Happening) -> None:
    """Do it, if the registry's rules allow it."""
    match happening:
        case Add(owner):
            ledger.add_version(owner)
        case Move(owner, number, action):
            with suppress(KeymixerError):
                ledger.move(owner, number, action)
        case Revoke(party):
            ledger.revoke(party)
        case Wait(seconds):
            ledger.clock.pass_seconds(seconds)
        case Look():
            standing.look()


def usable(ledger: Ledger) -> set[tuple[str, int]]:
    """The oracle for keys."""
    with ledger.registry.database.reading() as session:
        rows = session.scalars(store.select_key_versions()).all()
        return {
            (row.key.key_id, row.version)
            for row in rows
            if row.state == "active"
            or (row.state == "retiring" and ledger.clock() < (row.retire_at_ms or 0))
        }


def active(ledger: Ledger) -> set[str]:
    """The oracle for parties."""
    with ledger.registry.database.reading() as session:
        query = select(Party.spiffe_id).where(Party.state == "active")
        return set(session.scalars(query))


def keys_let_in(standing: Standing) -> set[tuple[str, int]]:
    found = set()
    for owner in OWNERS:
        for number in range(1, 40):
            with suppress(Conflict):
                standing.require_key(key_id(owner), number)
                found.add((key_id(owner), number))
    return found


def parties_let_in(standing: Standing, candidates: set[str]) -> set[str]:
    found = set()
    for party in candidates:
        with suppress(KeymixerError):
            standing.require_party(party)
            found.add(party)
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with open_ledger(folder) as ledger:
        for owner in OWNERS:
            ledger.active(owner)
    return folder


@settings(max_examples=15)
@given(history=st.lists(happenings, min_size=5, max_size=20))
def test_a_copy_lets_in_whom_the_rows_let_in(
    tmp_path_factory: pytest.TempPathFactory, template: Path, history: list[Happening]
) -> None:
    with copied_ledger(template, tmp_path_factory.mktemp("registry")) as ledger:
        standing = newcomer(ledger)
        everybody = active(ledger)
        for happening in [*history, Look()]:
            let_happen(ledger, standing, happening)
            if isinstance(happening, Look):
                assert keys_let_in(standing) == usable(ledger)
                assert parties_let_in(standing, everybody) == active(ledger)
        fresh = newcomer(ledger)
        fresh.look()

        assert keys_let_in(fresh) == usable(ledger)
        assert parties_let_in(fresh, everybody) == active(ledger)

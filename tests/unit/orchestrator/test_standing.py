"""Who stands how since when: no change is missed, and nobody is put out twice."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from core.errors import Conflict, InvalidInput, NotAllowedError, NotFound
from core.rpc.identity import OPERATOR, SpiffeId
from core.rpc.policy import acting_as
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyAction
from orchestrator.registry.service import RegistryService
from orchestrator.registry.store import KeyStanding, PartyStanding, Standing
from protos import registry_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.ledger import (
    ALDER_ID,
    BIRCH_ID,
    CLOUD_ID,
    HUB_ID,
    MODEL,
    OPERATOR_ID,
    Ledger,
    copied_ledger,
    key_id,
    open_ledger,
)

SECOND_OPERATOR = SpiffeId("demo", "second", OPERATOR)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with open_ledger(folder):
        return folder


@pytest.fixture
def ledger(template: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied_ledger(template, tmp_path) as ledger:
        yield ledger


def since(ledger: Ledger, revision: int) -> Standing:
    with ledger.registry.reading(CLOUD_ID) as session:
        return store.standing_since(session, revision)


def states(standing: Standing) -> list[tuple[str, int, str]]:
    return [(key.key_id, key.version, key.state) for key in standing.keys]


ALDER, BIRCH = key_id(ALDER_ID), key_id(BIRCH_ID)


def test_a_newcomer_hears_of_every_party_and_every_key_in_use(ledger: Ledger) -> None:
    ledger.active(ALDER_ID)
    found = since(ledger, 0)

    assert len(found.parties) == 7
    assert {party.state for party in found.parties} == {"active"}
    assert found.keys == [
        KeyStanding(
            key_id=ALDER,
            version=1,
            owner=str(ALDER_ID),
            model=MODEL,
            state="active",
            retire_at_ms=None,
        )
    ]
    assert found.revision == ledger.registry.log.size()


def test_a_newcomer_hears_nothing_of_what_has_ended(ledger: Ledger) -> None:
    """There are ever more of those, and what is not named is refused anyway."""
    for action in (KeyAction.REVOKE, KeyAction.SUSPEND, KeyAction.COMPROMISE):
        ledger.move(ALDER_ID, ledger.active(ALDER_ID), action)
    ledger.add_version(BIRCH_ID)

    assert since(ledger, 0).keys == []


def test_whoever_asks_again_hears_only_what_changed(ledger: Ledger) -> None:
    ledger.active(ALDER_ID)
    ledger.active(BIRCH_ID)
    known = since(ledger, 0).revision
    assert states(since(ledger, known)) == []

    ledger.move(ALDER_ID, 1, KeyAction.SUSPEND)
    found = since(ledger, known)
    assert states(found) == [(ALDER, 1, "suspended")]
    assert found.parties == []
    assert states(since(ledger, found.revision)) == []


def test_changes_of_one_transaction_are_all_heard(ledger: Ledger) -> None:
    ledger.active(ALDER_ID)
    ledger.active(BIRCH_ID)
    known = since(ledger, 0).revision
    with ledger.change() as change:
        for owner in (ALDER, BIRCH):
            version = store.key_version(change.session, owner, 1)
            store.move(change, version, KeyAction.SUSPEND, "key.suspended")
        store.revoke_party(change, str(BIRCH_ID), "left")

    found = since(ledger, known)
    assert sorted(states(found)) == [(ALDER, 1, "suspended"), (BIRCH, 1, "suspended")]
    assert found.parties == [PartyStanding(str(BIRCH_ID), "revoked")]


def test_a_retiring_version_says_until_when(ledger: Ledger) -> None:
    ledger.active(ALDER_ID)
    ledger.move(ALDER_ID, 1, KeyAction.RETIRE)

    (key,) = since(ledger, 0).keys
    assert (key.state, key.retire_at_ms) == ("retiring", ledger.clock() + 10_000)


def test_the_revision_of_a_row_is_the_log_before_its_record(ledger: Ledger) -> None:
    """So that a row and its record are on the same side of every revision."""
    ledger.active(ALDER_ID)
    ledger.revoke(BIRCH_ID)
    with ledger.change() as change:
        version = store.key_version(change.session, ALDER, 1)
        revision = version.revision

    (activated,) = ledger.entries("key.activated")
    assert revision == activated.index
    (revoked,) = ledger.entries("party.revoked")
    assert since(ledger, revoked.index).parties == [
        PartyStanding(str(BIRCH_ID), "revoked")
    ]
    assert since(ledger, revoked.index + 1).parties == []


def test_a_revocation_is_recorded_for_the_party_to_read(ledger: Ledger) -> None:
    ledger.revoke(ALDER_ID, "its contract ended")
    (entry,) = ledger.entries("party.revoked")

    assert entry.actor == str(OPERATOR_ID)
    assert entry.subject == {
        "party": str(ALDER_ID),
        "role": "data-owner",
        "reason_hmac": entry.subject["reason_hmac"],
    }
    assert "its contract ended" == ledger.reason(entry)
    mine = ledger.registry.log.entries(0, 100, kind=entry.kind, party=str(ALDER_ID))
    assert [each.index for each in mine] == [entry.index]


def test_a_party_revoked_again_is_left_as_it_is(ledger: Ledger) -> None:
    ledger.revoke(ALDER_ID)
    size = ledger.registry.log.size()
    ledger.revoke(ALDER_ID, "once more")

    assert ledger.registry.log.size() == size


def test_a_revoked_party_may_not_call_at_all(ledger: Ledger) -> None:
    ledger.registry.admit(ALDER_ID)
    ledger.revoke(ALDER_ID)

    with pytest.raises(NotAllowedError):
        ledger.registry.admit(ALDER_ID)
    with pytest.raises(NotAllowedError), ledger.registry.reading(ALDER_ID):
        pass


def test_a_stranger_may_not_call_at_all(ledger: Ledger) -> None:
    with pytest.raises(NotAllowedError):
        ledger.registry.admit(SECOND_OPERATOR)


def test_nobody_can_put_out_the_orchestrator(ledger: Ledger) -> None:
    with pytest.raises(Conflict):
        ledger.revoke(HUB_ID)


def test_the_last_operator_stays(ledger: Ledger) -> None:
    with ledger.registry.own_change() as change:
        store.enrol(change, SECOND_OPERATOR)
    ledger.revoke(SECOND_OPERATOR)
    with pytest.raises(Conflict, match="last operator"):
        ledger.revoke(OPERATOR_ID)

    assert len(ledger.entries("party.revoked")) == 1


def test_an_operator_may_be_put_out_by_another(ledger: Ledger) -> None:
    with ledger.registry.own_change() as change:
        store.enrol(change, SECOND_OPERATOR)
    ledger.revoke(OPERATOR_ID)

    with pytest.raises(NotAllowedError):
        ledger.revoke(ALDER_ID)


def test_a_party_nobody_knows_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.revoke(SECOND_OPERATOR)


def test_a_reason_has_a_bound(ledger: Ledger) -> None:
    ledger.revoke(BIRCH_ID, "x" * 500)
    with pytest.raises(InvalidInput):
        ledger.revoke(ALDER_ID, "x" * 501)


def asked(ledger: Ledger, caller: SpiffeId, revision: int) -> pb.ListStandingResponse:
    service = RegistryService(ledger.registry)
    with acting_as(caller):
        request = pb.ListStandingRequest(since=revision)
        return service.ListStanding(request, fake_context())


def test_standing_is_told_over_the_wire_as_it_is(ledger: Ledger) -> None:
    ledger.active(ALDER_ID)
    known = asked(ledger, CLOUD_ID, 0)
    ledger.move(ALDER_ID, 1, KeyAction.RETIRE)
    ledger.revoke(BIRCH_ID)
    found = asked(ledger, CLOUD_ID, known.revision)

    assert found == pb.ListStandingResponse(
        revision=ledger.registry.log.size(),
        parties=[pb.PartyStanding(spiffe_id=str(BIRCH_ID), state="revoked")],
        keys=[
            pb.KeyStanding(
                key_id=ALDER,
                version=1,
                owner=str(ALDER_ID),
                model=MODEL,
                state="retiring",
                retire_at_ms=ledger.clock() + 10_000,
            )
        ],
    )


def test_a_revoked_server_hears_nothing(ledger: Ledger) -> None:
    ledger.revoke(CLOUD_ID)

    with pytest.raises(Aborted) as caught:
        asked(ledger, CLOUD_ID, 0)
    assert caught.value.args[0] is grpc.StatusCode.PERMISSION_DENIED

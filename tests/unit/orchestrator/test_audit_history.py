"""A log that is whole and signed can still tell what cannot have happened."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.audit.history import History
from orchestrator.audit.records import Entry, Fact
from orchestrator.audit.tile_check import verify_tiles
from orchestrator.audit.tiles import export_tiles
from orchestrator.audit.verify import verify_log
from orchestrator.errors import AuditBroken
from tests.unit.orchestrator.logs import OPERATOR, OWNER, PUBLIC_KEY, opened

HUB = "spiffe://test/hub/orchestrator"
SERVER = "spiffe://test/cloud/inference-server"
OTHER = "spiffe://test/ward/data-owner"

Told = tuple[str, str, dict[str, Fact]]

KEY: dict[str, Fact] = {
    "owner": OWNER,
    "model": "cells",
    "key_id": "clinic.cells",
    "key_version": 1,
}
ISSUED: dict[str, Fact] = {**KEY, "model_version": 1}
RELEASE: Told = ("inference", SERVER, {**ISSUED, "images": 1})


def key(kind: str, state: str) -> Told:
    return kind, HUB, {**KEY, "state": state}


def issued(kind: str, state: str, key_state: str = "active") -> Told:
    return kind, HUB, {**ISSUED, "issued_state": state, "state": key_state}


def enrolled(party: str) -> Told:
    return "party.enrolled", HUB, {"party": party}


START: list[Told] = [
    *map(enrolled, (HUB, OPERATOR, SERVER, OWNER, OTHER)),
    ("model.registered", OPERATOR, {"model": "cells", "model_version": 1}),
    ("model.granted", OPERATOR, {"owner": OWNER, "model": "cells"}),
    key("key.created", "pre_active"),
    issued("issued.prepared", "pending", "pre_active"),
    issued("issued.live", "live", "pre_active"),
    key("key.activated", "active"),
    RELEASE,
]
TOLD: list[Told] = [
    *START,
    key("key.suspended", "suspended"),
    key("key.resumed", "active"),
    key("key.retiring", "retiring"),
    issued("issued.retiring", "retiring", "retiring"),
    RELEASE,
    key("key.expired", "destroy_scheduled"),
    issued("issued.gone", "gone", "destroy_scheduled"),
    key("key.destroyed", "destroyed"),
    ("key.fetched", OPERATOR, {"key_id": "what it says", "key_version": "9"}),
    ("approval.requested", OPERATOR, {"approval": 1}),
    ("approval.approved", OPERATOR, {"approval": 1}),
    ("party.revoked", OPERATOR, {"party": OTHER}),
    ("refused", "", {"caller": "spiffe://elsewhere/x/data-owner"}),
]


def tell(told: Sequence[Told]) -> None:
    history = History()
    for index, (kind, actor, subject) in enumerate(told):
        history.add(Entry(index, index, kind, actor, subject))


def released(**changed: Fact) -> Told:
    return "inference", SERVER, {**RELEASE[2], **changed}


STRAY: dict[str, tuple[list[Told], str]] = {
    "an answer before its key was active": (
        [*START[:-2], RELEASE],
        "its key version was pre_active then",
    ),
    "an answer under a suspended key": (
        [*START, key("key.suspended", "suspended"), RELEASE],
        "its key version was suspended then",
    ),
    "an answer under a revoked key": (
        [*START, key("key.revoked", "destroy_scheduled"), RELEASE],
        "its key version was destroy_scheduled then",
    ),
    "an answer with a model that is gone": (
        [*START, issued("issued.gone", "gone"), RELEASE],
        "its model version was not issued",
    ),
    "an answer with a model never issued": (
        [*START, released(model_version=2)],
        "its model version was not issued",
    ),
    "an answer under a key nobody made": (
        [*START, released(key_version=2)],
        "names a key version that was not created",
    ),
    "an answer under another's key": (
        [*START, released(owner=OTHER)],
        "its key is another owner's",
    ),
    "an answer for another model": (
        [*START, released(model="tissue")],
        "its key is another owner's, or for another model",
    ),
    "an answer for a stranger": (
        [*START, released(owner="spiffe://test/x/data-owner")],
        "names a party that was not enrolled",
    ),
    "an answer that does not say for whom": (
        [*START, ("inference", SERVER, {"images": 1})],
        "does not say whose",
    ),
    "an answer by a stranger": (
        [*START, ("inference", "spiffe://test/x/inference-server", RELEASE[2])],
        "names a party that was not enrolled",
    ),
    "an answer for a revoked owner": (
        [*START, ("party.revoked", OPERATOR, {"party": OWNER}), RELEASE],
        "names a party that was revoked",
    ),
    "an answer without a grant": (
        [*START[:6], *START[7:]],
        "was never granted the model",
    ),
    "an act of a stranger": (
        [*START, ("alias.moved", OTHER + "x", {})],
        "names a party that was not enrolled",
    ),
    "an act of a revoked party": (
        [
            *START,
            ("party.revoked", OPERATOR, {"party": OTHER}),
            ("party.keys_registered", OTHER, {"party": OTHER}),
        ],
        "names a party that was revoked",
    ),
    "a stranger revoked": (
        [*START, ("party.revoked", OPERATOR, {"party": "nobody"})],
        "names a party that was not enrolled",
    ),
    "a grant to a stranger": (
        [*START, ("model.granted", OPERATOR, {"owner": "x", "model": "cells"})],
        "names a party that was not enrolled",
    ),
    "a key of a stranger": (
        [*START, ("key.created", HUB, {**KEY, "key_version": 2, "owner": "x"})],
        "names a party that was not enrolled",
    ),
    "a key made twice": (
        [*START, key("key.created", "pre_active")],
        "its key version was there already",
    ),
    "a key that changes hands": (
        [*START, ("key.retiring", HUB, {**KEY, "owner": OTHER, "state": "retiring"})],
        "its key is another owner's",
    ),
    "a key that comes back from destruction": (
        [*TOLD, key("key.activated", "active")],
        "its key version was destroyed: it cannot be active",
    ),
    "a model issued that was never registered": (
        [*START, ("issued.prepared", HUB, {**ISSUED, "model_version": 2})],
        "names a model version that was not registered",
    ),
    "an alias of a model never registered": (
        [*START, ("alias.moved", OPERATOR, {"model": "cells", "model_version": 2})],
        "names a model version that was not registered",
    ),
    "an approval nobody asked for": (
        [*START, ("approval.approved", OPERATOR, {"approval": 7})],
        "nobody had asked for the approval",
    ),
}


def test_a_life_from_enrolment_to_destruction_holds() -> None:
    tell(TOLD)


@pytest.mark.parametrize(("told", "said"), STRAY.values(), ids=STRAY)
def test_what_cannot_follow_is_found_where_it_is(told: list[Told], said: str) -> None:
    with pytest.raises(AuditBroken, match=said) as caught:
        tell(told)

    assert ("record", len(told) - 1) == (caught.value.part, caught.value.index)


def test_a_signed_release_under_a_revoked_key_is_found_in_log_and_tiles(
    tmp_path: Path,
) -> None:
    """Whoever has the log's key can sign anything, but not make it have been so."""
    told = [*START, key("key.revoked", "destroy_scheduled"), RELEASE]
    with opened(tmp_path) as (database, log):
        with database.transaction() as session:
            for kind, actor, subject in told:
                log.append(session, kind, actor, subject)
        log.checkpoint()
        export_tiles(database, tmp_path / "tiles")
    said = "record 13: its key version was destroy_scheduled then"

    with pytest.raises(AuditBroken, match=said):
        verify_log(tmp_path / "registry.db", PUBLIC_KEY)
    with pytest.raises(AuditBroken, match=said):
        verify_tiles(tmp_path / "tiles", PUBLIC_KEY)

"""Cards and what was seen since outlive a restart, on every database."""

from pathlib import Path

from core.manifest import Manifest
from orchestrator.federation import Policies
from orchestrator.registry import sight, store
from orchestrator.registry.sight import Seen
from orchestrator.workflows import gate
from tests.unit.core.test_card import CARD
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    Office,
    furnish,
    open_office,
    register_model,
)

BLOCKS = 64
RULES = Policies.model_validate(
    {"leakage": [{"when": "images", "above": 10, "then": "fresh_release"}]}
)


def seen(office: Office, version: int) -> Seen:
    with office.database.reading() as session:
        return sight.of_embedding(session, store.model_version(session, MODEL, version))


def refused(office: Office, version: int) -> str:
    with office.database.reading() as session:
        row = store.model_version(session, MODEL, version)
        found = gate.refusal(session, RULES, row)
        return found.kind if found else ""


def test_what_was_measured_and_seen_is_there_after_a_restart(
    url: str, tmp_path: Path
) -> None:
    """Over two owners, a rotation, a child, and a fresh start that begins anew."""
    with open_office(tmp_path, url) as office:
        furnish(office)
        office.move_champion(1)
        for owner in (ALDER_ID, BIRCH_ID):
            office.active_key(owner)
        register_model(office, seed=2, embedding="c", parent=1, card=CARD)
        register_model(office, seed=3, embedding="d", card=CARD)
        assert not office.answer(7, ALDER_ID)
        office.rotate(ALDER_ID)
        office.bring_into_use("alder.cells", 2)
        assert not office.answer(3, ALDER_ID, version=2)
        assert not office.answer(1, BIRCH_ID)
    with open_office(tmp_path, url) as office:
        with office.database.reading() as session:
            row = store.model_version(session, MODEL, 2)
            measured = Manifest.from_bytes(row.manifest).leakage

        assert measured == CARD
        assert seen(office, 1) == seen(office, 2) == Seen(11, 11 * BLOCKS)
        assert seen(office, 3) == Seen()
        assert [refused(office, each) for each in (1, 2, 3)] == [
            "FreshReleaseNeeded",
            "FreshReleaseNeeded",
            "",
        ]

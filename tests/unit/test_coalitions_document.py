"""The tables of coalitions in the documents are what one run of the lab computed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from core.leakage.coalitions import Member
from orchestrator.federation import read_federation
from orchestrator.leakage.coalition_rows import markdown
from orchestrator.leakage.run import ROWS

ROOT: Final = Path(__file__).parents[2]
CONTENT: Final[Mapping[str, Any]] = json.loads(
    (ROOT / "docs" / "coalitions.json").read_text()
)


@pytest.mark.parametrize("document", ["README.md", "docs/threat-model.md"])
def test_the_documents_table_is_what_was_computed(document: str) -> None:
    assert markdown(CONTENT["coalitions"]) in (ROOT / document).read_text()


def test_no_coalition_is_left_out() -> None:
    rows = CONTENT["coalitions"]
    seen = {frozenset(row["members"]) for row in rows}

    assert len(rows) == ROWS
    assert len(seen) == 2 ** len(Member)
    assert set().union(*seen) == set(map(str, Member))


def test_it_is_of_the_scenario_that_is_here_and_of_a_secret_embedding() -> None:
    """A public one would give the outsider `W`, and the server every key."""
    scenario = read_federation(ROOT / "deploy" / "scenarios" / "coalitions.yaml")
    facts = CONTENT["federation"]

    assert facts["federation"] == scenario.federation
    assert facts["public_embedding"] is False
    assert scenario.models[0].release is None
    assert sum(facts["ciphertexts"].values()) == scenario.simulation.images
    assert len(facts["others"]) == 2

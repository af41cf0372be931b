"""The story a person reads: sentences for records, times by the log's own clock."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.registry.lifecycle import TRANSITIONS
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.sentences import SENTENCES, sentence

OWNER = "spiffe://example.keymixer/st-anna/data-owner"


@pytest.fixture
def narrator() -> Narrator:
    return Narrator(Console(file=io.StringIO(), width=200))


def _record(kind: str, time_ms: float, **subject: object) -> dict[str, Any]:
    return {"kind": kind, "actor": OWNER, "subject": subject, "time_ms": time_ms}


def test_a_record_is_told_with_the_time_it_has_in_the_log(narrator: Narrator) -> None:
    """News is read some time after it happened."""
    narrator.tells(_record("server.started", (narrator.epoch_s + 2) * 1000))

    (happening,) = narrator.story

    assert happening.at_s == pytest.approx(2, abs=0.01)
    assert (happening.party, happening.role) == ("st-anna", "data-owner")


def test_what_happened_before_a_run_was_resumed_is_not_told_again(
    narrator: Narrator,
) -> None:
    narrator.tells(_record("server.started", (narrator.epoch_s - 60) * 1000))

    assert [] == narrator.story


def test_an_inference_is_not_told_one_by_one(narrator: Narrator) -> None:
    narrator.tells(_record("inference", (narrator.epoch_s + 2) * 1000))

    assert [] == narrator.story


def test_a_sentence_names_organisations_instead_of_identities() -> None:
    subject = {"owner": OWNER, "model": "digits"}

    assert "lets st-anna use digits" == sentence("model.granted", subject)


def test_a_reason_that_was_not_looked_up_is_said_to_be_elsewhere() -> None:
    """A receipt has the record alone."""
    told = sentence("key.held", {"key_id": "a", "reason_hmac": "ab" * 32})

    assert "holds a, with all versions to come: (kept beside the log)" == told


def test_an_unknown_kind_is_told_as_it_is() -> None:
    """A new kind of record must not break the simulation."""
    assert "moon landed: on sea" == sentence("moon.landed", {"on": "sea"})


def test_a_record_that_lacks_a_fact_is_told_as_it_is() -> None:
    assert "key drawn: key_id a" == sentence("key.drawn", {"key_id": "a"})


def test_every_end_of_a_key_has_a_sentence() -> None:
    """The lifecycle's reachable actions are told in words."""
    assert {"key.revoked", "key.expired", "key.destroyed"} <= set(SENTENCES)
    assert TRANSITIONS


def test_a_phase_counts_its_seconds_and_markup_is_printed_as_it_is(
    narrator: Narrator,
) -> None:
    with narrator.phase("keys", "Keys [bold]"):
        narrator.says("operator", "me", "[red] is not markup")

    printed = narrator.console.file.getvalue()  # type: ignore[attr-defined]

    assert narrator.seconds["keys"] >= 0
    assert "Keys [bold]" in printed
    assert "[red] is not markup" in printed


RECORDED = re.compile(
    r'"((?:alias|approval|issued|job|keys?|key_holder|model|party|refusals|server)'
    r'\.[a-z_]+)"'
)
OTHERS = re.compile(r"\.(db|id|json|key|npz|pem|safetensors)$")
SOURCES = ("orchestrator/registry", "orchestrator/workflows", "parties/key_holder")


def test_every_kind_that_is_recorded_has_a_sentence() -> None:
    """Without one, a key's history would leave it out."""
    sources = [path for each in SOURCES for path in Path(each).rglob("*.py")]
    written = {kind for path in sources for kind in RECORDED.findall(path.read_text())}
    kinds = {kind for kind in written if not OTHERS.search(kind)}

    assert {"key.created", "approval.requested", "issued.gone"} <= kinds
    assert kinds - set(SENTENCES) == set()

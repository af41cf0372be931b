"""`keymixer audit witnesses`: who cosigned what, and how far behind the log."""

from protos.audit_pb2 import Cosignature, ListCosignaturesRequest
from protos.audit_pb2 import ListCosignaturesResponse as Page
from tests.unit.orchestrator.cli.desk import Desk, Terminal

ARCHIVE = "spiffe://digits.keymixer/archive/data-owner"
POST_OFFICE = "spiffe://digits.keymixer/post-office/data-owner"
JULY_S = 1_751_328_000

FIRST = Cosignature(witness=ARCHIVE, size=40, at_s=JULY_S, checkpoint=b"a note\n")
SECOND = Cosignature(witness=POST_OFFICE, size=42, at_s=JULY_S + 1)


def two_pages(asked: ListCosignaturesRequest) -> Page:
    """Records came while the first page was read."""
    if not asked.after:
        return Page(cosignatures=[FIRST], next=7, size=41)
    assert asked.after == 7
    return Page(cosignatures=[SECOND], size=42)


def test_each_witness_is_shown_with_how_far_it_is(
    desk: Desk, terminal: Terminal
) -> None:
    desk.answers["ListCosignatures"] = two_pages
    lines = terminal.text("audit", "witnesses").strip().splitlines()
    first, second = (line.split() for line in lines[-2:])

    assert [ARCHIVE, "40", "2", "2025-07-01", "00:00:00"] == first
    assert [POST_OFFICE, "42", "0", "2025-07-01", "00:00:01"] == second


def test_programs_read_the_cosigned_checkpoint_too(
    desk: Desk, terminal: Terminal
) -> None:
    desk.answers["ListCosignatures"] = two_pages
    first, second = terminal.json("audit", "witnesses")

    assert first == {
        "witness": ARCHIVE,
        "size": 40,
        "behind": 2,
        "at": "2025-07-01 00:00:00",
        "checkpoint": "a note\n",
    }
    assert second["behind"] == 0


def test_a_named_operator_asks(desk: Desk, terminal: Terminal) -> None:
    desk.answers["ListCosignatures"] = two_pages
    terminal.text("audit", "witnesses", "--as", "auditors")

    assert {"auditors"} == {each.organisation for each in desk.asked}

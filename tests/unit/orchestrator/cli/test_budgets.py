"""`keymixer budgets`: what is typed, what the orchestrator is asked, what is said."""

import pytest

from protos.registry_pb2 import Grant, ListGrantsResponse
from tests.unit.orchestrator.cli.desk import Desk, Terminal

FEDERATION = "digits.keymixer"
JULY_MS = 1_751_328_000_000


def grant(owner: str = "post-office", **fields: object) -> Grant:
    made = Grant(owner=f"spiffe://{FEDERATION}/{owner}/data-owner", model="digits")
    made.period = "total"
    made.MergeFrom(Grant(**fields))  # type: ignore[arg-type]
    return made


LIMITED = grant(max_images=1000, images_used=250, period="month", renews_at_ms=JULY_MS)


def test_the_budgets_are_listed_with_what_is_left(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(ListGrantsResponse(grants=[LIMITED, grant("archive", images_used=3)]))
    lines = terminal.text("budgets").strip().splitlines()
    shown = [line.split() for line in lines]

    assert ["post-office", "digits", "1,000", "a", "month"] == shown[-2][:5]
    assert ["250", "750", "2025-07-01", "00:00:00"] == shown[-2][5:]
    assert ["archive", "digits", "no", "limit", "3"] == shown[-1]


def test_programs_read_numbers_and_none(desk: Desk, terminal: Terminal) -> None:
    desk.says(ListGrantsResponse(grants=[LIMITED, grant("archive", images_used=3)]))
    limited, unlimited = terminal.json("budgets", "list")

    assert (limited["max_images"], limited["left"]) == (1000, 750)
    assert (unlimited["max_images"], unlimited["left"]) == (None, None)
    assert unlimited["images_used"] == 3


def test_a_budget_is_set(desk: Desk, terminal: Terminal) -> None:
    desk.says(ListGrantsResponse(grants=[LIMITED]))
    told = terminal.text("budgets", "set", "post-office", "1000", "--per", "month")

    asked = desk.only("SetBudget").request
    assert (asked.max_images, asked.period) == (1000, "month")
    assert asked.owner == LIMITED.owner
    assert not asked.HasField("instead_of")
    assert "1,000 a month; 250 used" in told


def test_none_is_a_budget_too(desk: Desk, terminal: Terminal) -> None:
    desk.says(ListGrantsResponse(grants=[LIMITED]))
    terminal.text("budgets", "set", "post-office", "0")
    asked = desk.only("SetBudget").request

    assert asked.HasField("max_images")
    assert asked.max_images == 0


def test_a_raise_says_what_it_raises(desk: Desk, terminal: Terminal) -> None:
    """Sent twice, it counts once."""
    desk.says(ListGrantsResponse(grants=[LIMITED]))
    terminal.text("budgets", "raise", "post-office", "500")
    asked = desk.only("SetBudget").request

    assert (asked.max_images, asked.instead_of, asked.period) == (1500, 1000, "month")


def test_what_has_no_limit_is_not_raised(desk: Desk, terminal: Terminal) -> None:
    """It would be a limit where there was none."""
    desk.says(ListGrantsResponse(grants=[grant()]))
    terminal.text("budgets", "raise", "post-office", "500", code=1)

    assert "set one" in terminal.said
    assert [each.method for each in desk.asked] == ["ListGrants"]


def test_a_lifted_budget_is_no_budget(desk: Desk, terminal: Terminal) -> None:
    desk.says(ListGrantsResponse(grants=[grant()]))
    told = terminal.text("budgets", "lift", "post-office")

    assert not desk.only("SetBudget").request.HasField("max_images")
    assert "no limit" in told


@pytest.mark.parametrize("command", ["set", "raise"])
def test_fewer_than_none_is_wrong_usage(
    desk: Desk, terminal: Terminal, command: str
) -> None:
    terminal.text("budgets", command, "--", "post-office", "-1", code=2)

    assert desk.asked == []


def test_a_first_key_may_come_with_a_budget(desk: Desk, terminal: Terminal) -> None:
    budget = ("--max-images", "9", "--per", "day")
    terminal.text("keys", "create", "post-office", *budget, "--no-wait")
    asked = desk.only("GrantModel").request

    assert (asked.max_images, asked.period) == (9, "day")

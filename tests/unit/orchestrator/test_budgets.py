"""Budgets: set, raised, lifted and listed; each change is on record."""

from typing import Any

import pytest

from core.errors import InvalidInput, NotAllowedError, NotGrantedError
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.errors import BudgetMoved, BudgetTooLow
from orchestrator.federation import Policies
from orchestrator.registry import budgets, periods
from orchestrator.registry.budgets import UNLIMITED, Budget
from orchestrator.registry.lifecycle import Period
from orchestrator.registry.models import Grant
from orchestrator.registry.service import RegistryService
from orchestrator.workflows import keys
from orchestrator.workflows.service import WorkflowService
from protos import registry_pb2 as registry
from protos import workflows_pb2 as pb
from tests.fakes import fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    SERVER_ID,
    Office,
)

ALDER = str(ALDER_ID)
# 2025-06-15, 15:06:40 UTC.
NOW_MS = 1_750_000_000_000
HOUR_MS = 3_600_000


@pytest.fixture
def granted(office: Office) -> Office:
    office.grant()
    return office


def replace(
    office: Office, budget: Budget, instead_of: int | None = None, model: str = MODEL
) -> None:
    with office.change() as change:
        budgets.replace_budget(change, ALDER, model, budget, instead_of)


def use(office: Office, images: int) -> None:
    """Draw on Alder's budget as an answer does."""
    with office.change() as change:
        (grant,) = budgets.grants_for(change.session, ALDER_ID)
        left = budgets.drawn(budgets.allowance(grant), images, change.now_ms)
        budgets.write_allowances(change, [left])


def seen(office: Office, caller: SpiffeId = OPERATOR_ID) -> list[registry.Grant]:
    service = RegistryService(office.registry)
    with acting_as(caller):
        answer = service.ListGrants(registry.ListGrantsRequest(), fake_context())
    return list(answer.grants)


def asked(office: Office, **said: Any) -> None:
    service = WorkflowService(office.registry, office.policies, office.key_holder)
    with acting_as(OPERATOR_ID):
        request = pb.GrantModelRequest(owner=ALDER, model=MODEL, **said)
        service.GrantModel(request, fake_context())


def test_a_budget_is_set_and_on_record(granted: Office) -> None:
    replace(granted, Budget(10))

    (entry,) = granted.entries("budget.set")
    assert entry.actor == str(OPERATOR_ID)
    assert entry.subject == {
        "owner": ALDER,
        "model": MODEL,
        "max_images": 10,
        "period": "total",
        "images_used": 0,
    }


def test_the_same_budget_again_is_no_change(granted: Office) -> None:
    replace(granted, Budget(10))
    replace(granted, Budget(10))
    replace(granted, Budget(10), instead_of=4)

    assert len(granted.entries("budget.set")) == 1


def test_what_was_used_before_counts(granted: Office) -> None:
    use(granted, 7)
    replace(granted, Budget(10))

    (grant,) = seen(granted)
    assert (grant.max_images, grant.images_used) == (10, 7)


def test_a_budget_below_what_is_used_is_refused_and_nothing_changes(
    granted: Office,
) -> None:
    replace(granted, Budget(10))
    use(granted, 7)
    with pytest.raises(BudgetTooLow):
        replace(granted, Budget(6))
    replace(granted, Budget(7))

    (grant,) = seen(granted)
    assert (grant.max_images, grant.images_used) == (7, 7)
    assert len(granted.entries("budget.set")) == 2


def test_a_raise_from_what_it_no_longer_is_is_refused(granted: Office) -> None:
    """Two operators who raise by ten at once raise by ten, and one is told."""
    replace(granted, Budget(10))
    replace(granted, Budget(30), instead_of=10)

    with pytest.raises(BudgetMoved):
        replace(granted, Budget(20), instead_of=10)


def test_a_lifted_budget_goes_on_counting(granted: Office) -> None:
    replace(granted, Budget(10))
    use(granted, 10)
    replace(granted, UNLIMITED)
    use(granted, 10)

    (grant,) = seen(granted)
    assert (grant.HasField("max_images"), grant.images_used) == (False, 20)
    assert granted.entries("budget.lifted")[0].subject == {
        "owner": ALDER,
        "model": MODEL,
    }


def test_another_period_begins_a_new_count(granted: Office) -> None:
    use(granted, 7)
    replace(granted, Budget(5, Period.DAY))
    use(granted, 5)

    (grant,) = seen(granted)
    assert (grant.images_used, grant.period) == (5, "day")
    assert grant.renews_at_ms == periods.end_ms(Period.DAY, NOW_MS)


@pytest.mark.parametrize("model", [MODEL, "ghosts"])
def test_whoever_may_not_use_a_model_has_no_budget(office: Office, model: str) -> None:
    with pytest.raises(NotGrantedError):
        replace(office, Budget(10), model=model)


@pytest.mark.parametrize("images", [-1, 1 << 63])
def test_a_budget_is_a_number_that_the_database_holds(images: int) -> None:
    with pytest.raises(InvalidInput):
        Budget(images)


def test_an_owner_sees_its_own_grant_and_an_operator_all(office: Office) -> None:
    office.grant(ALDER_ID)
    office.grant(BIRCH_ID)

    assert [grant.owner for grant in seen(office)] == [ALDER, str(BIRCH_ID)]
    assert [grant.owner for grant in seen(office, BIRCH_ID)] == [str(BIRCH_ID)]


@pytest.mark.parametrize("caller", [PROVIDER_ID, SERVER_ID])
def test_others_see_no_grants(office: Office, caller: SpiffeId) -> None:
    with office.database.reading() as session, pytest.raises(NotAllowedError):
        budgets.grants_for(session, caller)


POLICY: dict[str, Any] = {
    "budget": {"max_images": 100, "period": "month"},
    "grants": [
        {"owner": "alder", "model": MODEL, "budget": {"max_images": 7}},
        {"owner": "alder", "model": "bones", "budget": {"max_images": 8}},
        {"owner": "birch", "model": MODEL},
    ],
}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, (None, "total")),
        (POLICY, (7, "total")),
        (POLICY | {"grants": []}, (100, "month")),
        (POLICY | {"grants": POLICY["grants"][1:]}, (100, "month")),
    ],
)
def test_a_new_grant_has_the_budget_of_the_policy(
    office: Office, policy: dict[str, Any], expected: tuple[int | None, str]
) -> None:
    office.policies = Policies.model_validate(policy)
    asked(office)

    (grant,) = seen(office)
    most = grant.max_images if grant.HasField("max_images") else None
    assert (most, grant.period) == expected
    assert len(office.entries("budget.set")) == int(most is not None)


def test_what_an_operator_asks_for_comes_before_the_policy(office: Office) -> None:
    office.policies = Policies.model_validate(POLICY)
    asked(office, max_images=0, period="day")

    (grant,) = seen(office)
    assert (grant.max_images, grant.period) == (0, "day")


def test_to_be_granted_again_is_no_way_around_a_budget(granted: Office) -> None:
    replace(granted, Budget(10))
    use(granted, 10)
    asked(granted, max_images=1000)
    with granted.change() as change:
        grant = change.session.get_one(Grant, 1)
        grant.revoked_at_ms = change.now_ms
    with granted.change() as change:
        keys.grant(change, ALDER, MODEL, Budget(1000))

    (again,) = seen(granted)
    assert (again.max_images, again.images_used) == (10, 10)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (Period.DAY, 1_749_945_600_000, 1_750_032_000_000),
        (Period.MONTH, 1_748_736_000_000, 1_751_328_000_000),
        (Period.TOTAL, 0, 0),
    ],
)
def test_periods_are_those_of_the_calendar_in_utc(
    period: Period, start: int, end: int
) -> None:
    """15 June, 1 June and 1 July 2025, as `date -u -d ... +%s` says."""
    assert (start, end) == (
        periods.start_ms(period, NOW_MS),
        periods.end_ms(period, NOW_MS),
    )


@pytest.mark.parametrize("period", [Period.DAY, Period.MONTH])
def test_periods_leave_no_gap_and_do_not_overlap(period: Period) -> None:
    """Every hour of five years, with a leap year among them."""
    now, end = NOW_MS, periods.end_ms(period, NOW_MS)
    for _ in range(5 * 366 * 24):
        now += HOUR_MS
        if now >= end:
            assert periods.start_ms(period, now) == end
            end = periods.end_ms(period, now)
        assert periods.start_ms(period, now) <= now < end


def test_an_unknown_period_is_refused() -> None:
    with pytest.raises(InvalidInput, match="total, day, month"):
        periods.read("week")

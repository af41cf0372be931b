"""How many images an owner may have answered by a model: set, counted, never overdrawn.

A budget belongs to a grant. It is counted in the transaction that records the answer,
of which there is one at a time: what is left is exact, and so is its end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from sqlalchemy import Select, bindparam, select, update
from sqlalchemy.orm import Session, contains_eager

from core.database.fixed import Fixed
from core.errors import BudgetSpent, InvalidInput, NotAllowedError, NotGrantedError
from core.rpc.identity import DATA_OWNER, OPERATOR, SpiffeId
from orchestrator.audit.records import Fact
from orchestrator.errors import BudgetMoved, BudgetTooLow
from orchestrator.federation import MOST_IMAGES
from orchestrator.registry import periods
from orchestrator.registry.lifecycle import Period
from orchestrator.registry.models import Grant, Model, Party
from orchestrator.registry.store import LARGEST_PAGE, Change

_DRAW: Final = Fixed(
    update(Grant)
    .where(Grant.id == bindparam("grant"))
    .values(images_used=bindparam("used"), period_start_ms=bindparam("start_ms"))
)


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many images a period; None: no limit."""

    max_images: int | None = None
    period: Period = Period.TOTAL

    def __post_init__(self) -> None:
        if not 0 <= (self.max_images or 0) <= MOST_IMAGES:
            raise InvalidInput(f"max_images: expected 0 to {MOST_IMAGES}")

    @classmethod
    def of(cls, grant: Grant) -> Self:
        """The budget that a grant has."""
        return cls(grant.max_images, Period(grant.budget_period))


UNLIMITED: Final = Budget()


class Allowance(NamedTuple):
    """A grant's budget, as the transaction that draws on it sees it."""

    grant: int
    max_images: int | None
    period: str
    start_ms: int
    images_used: int


def drawn(allowance: Allowance, images: int, now_ms: int) -> Allowance:
    """Return what is left of a budget after images are released; all or none of them.

    Raises:
        BudgetSpent: they do not fit.
    """
    start_ms, used = _counted(allowance, now_ms)
    most = allowance.max_images
    if most is not None and used + images > most:
        raise BudgetSpent(f"{used} of {most} images are used, and {images} asked for")
    return allowance._replace(start_ms=start_ms, images_used=used + images)


def write_allowances(change: Change, allowances: Iterable[Allowance]) -> None:
    """Write what was drawn, in the transaction that read the allowances."""
    rows = [
        {"grant": each.grant, "used": each.images_used, "start_ms": each.start_ms}
        for each in allowances
    ]
    if rows:
        _DRAW.run(change.session, rows)


def set_budget(change: Change, grant: Grant, budget: Budget) -> None:
    """Replace a grant's budget; the one that it has already is no change.

    What is used stays counted, unless the period is another one.

    Raises:
        BudgetTooLow: more is used already.
    """
    if Budget.of(grant) == budget:
        return
    start_ms, used = _counted(allowance(grant), change.now_ms)
    if budget.period != grant.budget_period:
        start_ms, used = periods.start_ms(budget.period, change.now_ms), 0
    if budget.max_images is not None and used > budget.max_images:
        raise BudgetTooLow(f"{used} images are used, {budget.max_images} wanted")
    grant.max_images, grant.budget_period = budget.max_images, budget.period
    grant.period_start_ms, grant.images_used = start_ms, used
    _record(change, grant)


def replace_budget(
    change: Change, owner: str, model: str, budget: Budget, instead_of: int | None
) -> None:
    """Set the budget of a grant that is in force.

    Args:
        change: The transaction.
        owner: A SPIFFE ID.
        model: Its name.
        budget: The new one.
        instead_of: What the old one must allow; None: whatever it does.

    Raises:
        NotGrantedError: the owner may not use the model.
        BudgetMoved: the old one allows another number.
        BudgetTooLow: more is used already.
    """
    grant = _in_force(change.session, owner, model)
    moved = instead_of is not None and grant.max_images != instead_of
    if moved and Budget.of(grant) != budget:
        raise BudgetMoved(f"expected {instead_of} images, got {grant.max_images}")
    set_budget(change, grant, budget)


def used_now(grant: Grant, now_ms: int) -> int:
    """How many images were answered in the period that `now_ms` is in."""
    return _counted(allowance(grant), now_ms)[1]


def renews_at_ms(grant: Grant, now_ms: int) -> int:
    """When the next period begins; 0: never."""
    return periods.end_ms(Period(grant.budget_period), now_ms)


def grants_for(
    session: Session, caller: SpiffeId, owner: str = "", *, after: int = 0
) -> Sequence[Grant]:
    """A page of the grants a caller may see, oldest first; an owner sees its own.

    With an `owner` only that one's; `after` is the id of the last row before.
    """
    query = _select_grants().where(Grant.id > after).order_by(Grant.id)
    if caller.role == DATA_OWNER:
        query = query.where(Party.spiffe_id == str(caller))
    elif caller.role != OPERATOR:
        raise NotAllowedError(f"a {caller.role} sees no grants")
    if owner:
        query = query.where(Party.spiffe_id == owner)
    return session.scalars(query.limit(LARGEST_PAGE)).all()


def _counted(allowance: Allowance, now_ms: int) -> tuple[int, int]:
    """When the present period began, and what is used in it.

    A clock that is set back does not give the images of an earlier period again.
    """
    start_ms = periods.start_ms(Period(allowance.period), now_ms)
    if start_ms > allowance.start_ms:
        return start_ms, 0
    return allowance.start_ms, allowance.images_used


def allowance(grant: Grant) -> Allowance:
    """What may be drawn on a grant, as this transaction sees it."""
    return Allowance(
        grant.id,
        grant.max_images,
        grant.budget_period,
        grant.period_start_ms,
        grant.images_used,
    )


def _record(change: Change, grant: Grant) -> None:
    owner = grant.owner.spiffe_id
    named = {"owner": owner, "model": grant.model.name}
    if grant.max_images is None:
        change.record("budget.lifted", named, [owner])
        return
    facts: dict[str, Fact] = {
        **named,
        "max_images": grant.max_images,
        "period": str(grant.budget_period),
        "images_used": grant.images_used,
    }
    change.record("budget.set", facts, [owner])


def _in_force(session: Session, owner: str, model: str) -> Grant:
    query = _select_grants().where(
        Party.spiffe_id == owner, Model.name == model, Grant.revoked_at_ms.is_(None)
    )
    grant = session.scalar(query)
    if grant is None:
        raise NotGrantedError("the owner may not use this model")
    return grant


def _select_grants() -> Select[Grant]:
    return (
        select(Grant)
        .join(Grant.owner)
        .join(Grant.model)
        .options(contains_eager(Grant.owner), contains_eager(Grant.model))
    )

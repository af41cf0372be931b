"""Two orchestrator processes on one PostgreSQL database share the work, once each.

Operators ask the first; owners, key holder and inference server ask the second. So what
one has begun the other goes on with.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from core.rpc.identity import ORCHESTRATOR
from tests.killed.outcome import Outcome, outcome
from tests.killed.points import EVERY_POINT
from tests.killed.site import TWIN, Site
from tests.killed.theatre import POSTGRESQL, Theatre, verified
from tests.killed.town import Town, running
from tests.killed.workflows import A_DAY_S, create

# They wait for their turn too; a machine with other work is slow.
pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(1200)]


@pytest.fixture
def site(theatre: Theatre, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = theatre.site(f"two-{request.node.name}", POSTGRESQL)
    yield made
    theatre.leave(made)


def change_every_key(town: Town) -> None:
    """Rotate the keys there are, and create one more."""
    town.arm()
    town.insist(
        lambda: town.operator.rotate_keys(town.model, A_DAY_S),
        lambda: bool(town.ask("SELECT 1 FROM jobs WHERE kind = 'rotate'")),
    )
    create(town)


@pytest.fixture(scope="module")
def alone(theatre: Theatre) -> Outcome:
    """What one orchestrator leaves."""
    site = theatre.site("two-alone", POSTGRESQL)
    with running(site) as town:
        change_every_key(town)
    found = outcome(site)
    theatre.leave(site)
    return found


def test_each_step_of_each_job_is_committed_by_one_of_them(
    site: Site, alone: Outcome
) -> None:
    site.add_twin()
    with running(site) as town:
        change_every_key(town)
    passed = [site.ledger(server).passed() for server in (ORCHESTRATOR, TWIN)]
    commits = Counter(
        point for points in passed for point in points if point.startswith("before ")
    )

    assert outcome(site) == alone
    assert {point for point, times in commits.items() if times > 1} == set()
    assert all(any(", leased" in point for point in points) for points in passed)
    verified(site)


def test_what_one_of_them_had_begun_the_other_ends(site: Site, alone: Outcome) -> None:
    """The second dies at every point; leases that were taken over are worth nothing."""
    site.add_twin()
    with running(site, {TWIN: frozenset({EVERY_POINT})}) as town:
        change_every_key(town)

    assert outcome(site) == alone
    assert set(town.servers.deaths) == {TWIN}
    verified(site)

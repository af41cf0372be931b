"""Two orchestrator processes on one PostgreSQL database share the work, once each.

Operators ask the first; owners, key holder and inference server ask the second. So what
one has begun the other goes on with.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle

import pytest

from core.errors import DatabaseBusyError
from core.rpc.errors import RemoteUnavailableError
from core.rpc.identity import ORCHESTRATOR
from tests.killed.outcome import Outcome, outcome
from tests.killed.points import EVERY_POINT
from tests.killed.site import TWIN, Site, read_settings, write_settings
from tests.killed.theatre import POSTGRESQL, Theatre, verified
from tests.killed.town import Town, running
from tests.killed.workflows import A_DAY_S, create
from tests.partitioned.proxy import Network, network

# Some cuts end before anybody gives up, and some after both sides have.
SHORTEST_CUT_S = 1.0
LONGEST_CUT_S = 8.0
SILENCE = "answer_s=2&idle_s=1"
AT_ONCE = 8

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


def test_those_that_are_cut_off_in_turn_do_each_step_once(
    site: Site, alone: Outcome
) -> None:
    """No connection is lost; the network to the database just carries nothing."""
    site.add_twin()
    with ExitStack() as stack:
        networks = [
            cut_in_between(stack, site, server) for server in (ORCHESTRATOR, TWIN)
        ]
        town = stack.enter_context(running(site))
        with cut_at_random(networks, random.Random(0)):
            change_every_key(town)

    assert outcome(site) == alone
    assert not town.servers.deaths
    verified(site)


def test_all_who_ask_the_one_that_is_cut_off_are_told_so_in_time(site: Site) -> None:
    """It answers itself before their deadlines, and the other one serves meanwhile."""
    site.add_twin()
    with ExitStack() as stack:
        between = cut_in_between(stack, site, ORCHESTRATOR)
        town = stack.enter_context(running(site))
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        between.cut()
        asking = [pool.submit(set_champion, town) for _ in range(AT_ONCE)]
        for owner in town.owners.values():
            owner.sync_keys()
        answers = [each.exception() for each in asking]
        between.heal()
        town.insist(lambda: set_champion(town), lambda: False)

    assert [DatabaseBusyError.__name__.removesuffix("Error")] * AT_ONCE == [
        each.kind for each in answers if isinstance(each, RemoteUnavailableError)
    ]
    verified(site)


def set_champion(town: Town) -> None:
    town.operator.set_alias(town.model, "champion", 1)


def cut_in_between(stack: ExitStack, site: Site, server: str) -> Network:
    """Have a server reach its database through a network of its own."""
    between = stack.enter_context(network(site.url(ORCHESTRATOR)))
    folder = site.root / server
    url = f"{between.url(site.url(ORCHESTRATOR))}&{SILENCE}"
    write_settings(folder, read_settings(folder) | {"database": url})
    return between


@contextmanager
def cut_at_random(networks: Sequence[Network], chance: random.Random) -> Iterator[None]:
    """Cut off one, then the other, and so on, as long as the block takes."""
    ended = threading.Event()

    def cut_in_turn() -> None:
        for each in cycle(networks):
            chance.choice((each.cut, each.cut_answers))()
            ended.wait(chance.uniform(SHORTEST_CUT_S, LONGEST_CUT_S))
            each.heal()
            if ended.wait(chance.uniform(0, SHORTEST_CUT_S)):
                return

    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut_in_turn)
        try:
            yield
        finally:
            ended.set()
    cutting.result()

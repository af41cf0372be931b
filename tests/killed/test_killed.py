"""No death of a server, at any instant, loses or doubles anything.

Each workflow is played once undisturbed, and then once for each server, which kills
itself with SIGKILL before and after every commit, every call that changes something at
a peer, and every change of a file, and is started again each time.
"""

from collections.abc import Mapping

import pytest

from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, ORCHESTRATOR
from orchestrator.simulation.workspace import SERVERS
from tests.killed.theatre import DATABASES, SQLITE, Deaths, Play, Theatre, storm
from tests.killed.workflows import WORKFLOWS

# They wait for their turn too; a machine with other work is slow.
pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(1200)]

# One death alone, where it was hardest to get right: what is done is not known to who
# had it done, or the other way round.
ALONE = [
    ("create", ORCHESTRATOR, "after CreateKeyVersion cedar.cells 1 cells"),
    ("create", ORCHESTRATOR, "after record key.created cedar.cells 1 cells"),
    ("create", KEY_HOLDER, "after key cedar.cells/1"),
    ("create", KEY_HOLDER, "after ConfirmKeyVersion cedar.cells 1"),
    ("create", KEY_HOLDER, "after StoreIssuedModel cedar.cells 1 cells 1"),
    ("create", INFERENCE_SERVER, "before name issued/cedar.cells-1--cells-1.json"),
    ("rotate", ORCHESTRATOR, "before record key.activated alder.cells 2 cells"),
    ("rotate", ORCHESTRATOR, "after DeleteIssuedModel alder.cells 1 cells 1"),
    ("rotate", INFERENCE_SERVER, "after delete issued/alder.cells-1--cells-1.json"),
    ("rotate", KEY_HOLDER, "after key alder.cells/1 destroyed"),
    ("rotate", ORCHESTRATOR, "after DestroyKeyVersion alder.cells 1"),
    ("recover", ORCHESTRATOR, "after record key.compromised alder.cells 1 cells"),
]


@pytest.fixture(scope="module", autouse=True)
def booked(request: pytest.FixtureRequest, theatre: Theatre) -> None:
    """Whatever the chosen tests ask for is played side by side."""
    chosen = [
        {name: str(value) for name, value in item.callspec.params.items()}
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    for each in chosen:
        theatre.book(each["workflow"], each.get("database", SQLITE))
    for each in chosen:
        if "victim" in each:
            theatre.book(each["workflow"], each.get("database", SQLITE), deaths(each))


def deaths(parameters: Mapping[str, str]) -> Deaths:
    if point := parameters.get("point"):
        return Deaths(parameters["victim"], frozenset({point}))
    return storm(parameters["victim"])


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("victim", SERVERS)
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_dying_at_every_point_changes_nothing_in_the_end(
    theatre: Theatre, workflow: str, victim: str, database: str
) -> None:
    calm = theatre.play(workflow, database)
    wanted, deaths = set(calm.passed[victim]), storm(victim)
    while True:
        stormy = theatre.play(workflow, database, deaths)
        require_same_end(calm, stormy)
        assert set(stormy.deaths) <= {victim}
        missed = wanted - set(stormy.died[victim])
        assert not missed or missed < wanted, missed
        if not missed:
            return
        # It died elsewhere just then, in another thread, and this never came again.
        wanted, deaths = missed, Deaths(victim, frozenset(missed))


@pytest.mark.parametrize(("workflow", "victim", "point"), ALONE)
def test_one_death_changes_nothing_in_the_end(
    theatre: Theatre, workflow: str, victim: str, point: str
) -> None:
    alone = theatre.play(workflow, SQLITE, Deaths(victim, frozenset({point})))

    require_same_end(theatre.play(workflow, SQLITE), alone)
    assert point in alone.died[victim]
    assert alone.deaths == {victim: 1}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_point_has_a_before_and_an_after(theatre: Theatre, workflow: str) -> None:
    """The oracle of the tests above: what is watched is all that is done."""
    passed = theatre.play(workflow, SQLITE).passed
    for role in SERVERS:
        befores, afters = (
            {
                point.removeprefix(when)
                for point in passed[role]
                if point.startswith(when)
            }
            for when in ("before ", "after ")
        )
        assert befores == afters


def require_same_end(calm: Play, stormy: Play) -> None:
    assert calm.outcome.rows == stormy.outcome.rows
    assert calm.outcome.files == stormy.outcome.files
    assert calm.outcome.records == stormy.outcome.records

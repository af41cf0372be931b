"""Two orchestrators on one PostgreSQL write one history, though one is cut off.

The cut is between one of them and the server, both ways or only on the way back, and
no connection is lost by it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from core.database import before_commit
from core.errors import DatabaseBusyError
from orchestrator.registry.store import Change
from tests.contract.conftest import migrate
from tests.partitioned.desk import PATIENCE_S, PATIENT, Desk, desk
from tests.partitioned.proxy import Network
from tests.postgresql import PostgreSQL
from tests.unit.orchestrator.ledger import VAULT_ID

Cut = Callable[[Network], None]
# So long that only a cut, and no stall of the machine, is taken for silence.
SILENCE = "connect_timeout=6&answer_s=5&idle_s=3.5"
WAIT_S = 4.5
CUTS = pytest.mark.parametrize("cut", [Network.cut, Network.cut_answers])


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.emptied(migrate)


@pytest.fixture
def near(url: str, tmp_path: Path) -> Iterator[Desk]:
    """It is never cut off, and bears no failure."""
    with desk(url, tmp_path / "near", PATIENT, PATIENCE_S) as opened:
        yield opened


@pytest.fixture
def far(url: str, near: Desk, tmp_path: Path) -> Iterator[Desk]:
    with desk(url, tmp_path / "far", SILENCE, WAIT_S) as opened:
        yield opened


@CUTS
def test_whoever_is_cut_off_amid_a_change_holds_nobody_up(
    near: Desk, far: Desk, cut: Cut
) -> None:
    """The server gives its lock to the other while the network is still cut."""
    with ThreadPoolExecutor(1) as pool:

        def change_and_be_cut_off() -> None:
            with far.registry.own_change() as change:
                change.record("policy.in_force", {"sha256": "lost"})
                cut(far.network)
                others.append(pool.submit(near.report, "near"))
                change.session.execute(text("SELECT 1"))

        others: list[Future[int]] = []
        with pytest.raises(DatabaseBusyError, match="silent"):
            change_and_be_cut_off()
        for each in others:
            each.result()

    far.network.heal()
    assert far.report("far") == near.log.size() - 1
    assert near.verified() == ["near", "far"]


@CUTS
def test_whoever_is_cut_off_is_told_so_at_every_call(
    near: Desk, far: Desk, cut: Cut
) -> None:
    """With a connection that was open before, and with one that must be made."""
    cut(far.network)

    for ask in (far.log.size, far.log.checkpoint, lambda: far.report("far")):
        with pytest.raises(DatabaseBusyError):
            ask()

    far.network.heal()
    far.report("later")
    assert near.verified()[-1] == "later"


def test_a_commit_whose_answer_was_lost_is_found_by_the_name_of_its_record(
    near: Desk, far: Desk
) -> None:
    """The outcome is unknown: it is not done again, and may be asked for anywhere."""
    commits = []

    def lose_the_answer() -> None:
        commits.append(1)
        far.network.cut_answers()

    with pytest.raises(DatabaseBusyError):
        far.report("lost", lose_the_answer)
    assert commits == [1]
    index = near.report("lost")
    far.network.heal()

    assert far.report("lost") == index
    assert near.verified() == ["lost"]


def test_a_commit_of_several_records_that_is_lost_holds_nobody_up(
    near: Desk, far: Desk
) -> None:
    """What is written for many rows at once is the last that the server hears."""

    def record(change: Change) -> None:
        for name in ("lost", "too"):
            change.record("policy.in_force", {"sha256": name})
        before_commit(change.session, far.network.cut)

    with pytest.raises(DatabaseBusyError):
        far.registry.change_together(VAULT_ID, record)
    near.report("near")
    far.network.heal()

    assert near.verified() == ["near"]


def test_a_commit_that_was_lost_on_its_way_is_done_by_whoever_is_asked_again(
    near: Desk, far: Desk
) -> None:
    """It comes late, when the other has long done it, and is worth nothing."""
    with pytest.raises(DatabaseBusyError):
        far.report("lost", far.network.cut)
    index = near.report("lost")
    far.network.heal()

    assert far.report("lost") == index
    assert near.verified() == ["lost"]

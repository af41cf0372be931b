"""A site that goes away over a question is asked again when it is back."""

from collections.abc import Iterable, Iterator

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from parties.model_provider.federated import patience
from parties.model_provider.federated.errors import SiteFailedError
from parties.model_provider.federated.in_process import InProcessGrid, in_process
from parties.model_provider.federated.patience import PatientGrid
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.strategy import Standing
from tests.unit.parties.federated.fake_sites import client, play_on, state


class Unsteady:
    """Loses the first answers of one node, as SuperLink tells of it."""

    def __init__(self, grid: InProcessGrid, node: int, code: int, times: int) -> None:
        self._ask, self._node, self._code = grid.send_and_receive, node, code
        self.left, self.asked = times, list[int]()

    def __call__(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        self.asked += [message.metadata.dst_node_id for message in asked]
        return [self._lost(a) for a in self._ask(asked, timeout=timeout)]

    def _lost(self, answer: Message) -> Message:
        if answer.metadata.src_node_id != self._node or not self.left:
            return answer
        self.left -= 1
        lost = Message(Error(self._code, "gone"), reply_to=answer)
        replied = answer.metadata.reply_to_message_id
        lost.metadata.__dict__["_reply_to_message_id"] = replied
        return lost


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessGrid]:
    monkeypatch.setattr(patience, "_POLL_S", 0.0)
    app: ClientApp = client({number: state(number) for number in (1, 2, 3)})
    with in_process(FederatedPlan(sites=3), app) as opened:
        yield opened


def unsteady(grid: InProcessGrid, code: int, times: int) -> Unsteady:
    lost = Unsteady(grid, 3, code, times)
    grid.send_and_receive = lost  # type: ignore[method-assign]
    return lost


GONE = [
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
]


@pytest.mark.parametrize("code", GONE)
def test_only_the_site_that_went_away_is_asked_again(
    grid: InProcessGrid, code: int
) -> None:
    lost = unsteady(grid, code, times=2)
    begin = Standing(0, state(0))
    ((standing, told),) = play_on(PatientGrid(grid, 3), FederatedPlan(sites=3), begin)

    assert len(told.sites) == 3
    # Of five for training, three for the test that follows.
    assert sorted(lost.asked) == [2, 2, 3, 3, 3, 3, 4, 4]
    assert standing.round == 1


def test_a_round_goes_on_with_a_quorum(grid: InProcessGrid) -> None:
    unsteady(grid, ErrorCode.NODE_UNAVAILABLE, times=2)
    plan = FederatedPlan(sites=3, min_sites=2)
    ((_, told),) = play_on(PatientGrid(grid, 2), plan, Standing(0, state(0)))

    assert ["site-1", "site-3"] == [site.site for site in told.sites]


def test_it_waits_until_the_site_is_there_again(
    grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsteady(grid, ErrorCode.NODE_UNAVAILABLE, times=1)
    there = iter([[2, 4], [2, 4], [2, 3, 4]])
    patient = PatientGrid(grid, 3)
    questions = [Message(RecordDict(), node, "evaluate") for node in (2, 3, 4)]
    monkeypatch.setattr(grid, "get_node_ids", lambda: next(there))

    assert len(list(patient.send_and_receive(questions))) == 3
    assert list(there) == []


def test_a_site_that_says_it_failed_ends_the_training(grid: InProcessGrid) -> None:
    """To ask again would fail again: its data or its code is wrong."""
    unsteady(grid, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, times=1)

    with pytest.raises(SiteFailedError, match="round 1: gone"):
        play_on(PatientGrid(grid, 3), FederatedPlan(sites=3), Standing(0, state(0)))

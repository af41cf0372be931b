"""Many pictures over a stream: in order, and asked again only where that is safe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from core.errors import BudgetSpent, Exhausted, PeerUnavailable
from core.rpc.errors import RemoteError, RemoteRefusedError
from core.rpc.patience import PUSHBACK
from parties.data_owner.answers import joined
from parties.data_owner.bulk import WINDOW, predict_many
from parties.data_owner.client import Channels, Client
from parties.data_owner.errors import UnexpectedAnswerError
from tests.unit.parties.owner_world import World, client_of, plain_answer, served

BATCHES = np.random.default_rng(3).integers(0, 256, (20, 2, 8, 8, 3), np.uint8)


class BusyError(Exhausted):
    """What a server says that has not begun."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    with served(world) as channels:
        yield channels


@pytest.fixture
def client(channels: Channels, world: World, tmp_path: Path) -> Client:
    return ready(channels, world, tmp_path)


def ready(channels: Channels, world: World, folder: Path, **changes: Any) -> Client:
    client = client_of(channels, folder, **changes)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    client.streams.pause = lambda _seconds: None
    return client


def require_all_answered(client: Client) -> None:
    answers = joined(list(predict_many(client, BATCHES)))
    expected = plain_answer(BATCHES.reshape(-1, 8, 8, 3))

    assert np.allclose(expected, answers.logits, atol=1e-5)
    assert len(answers.receipts) == len(BATCHES)


def asked_ids(world: World) -> list[str]:
    return [request.id for request in world.asked]


def test_every_batch_is_answered_over_one_stream_in_order(
    client: Client, world: World
) -> None:
    require_all_answered(client)

    assert (world.streams, len(world.asked)) == (1, len(BATCHES))


def test_no_more_batches_are_read_than_a_window_holds(client: Client) -> None:
    read = 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal read
        for batch in BATCHES:
            read += 1
            yield batch

    ahead = [read - taken for taken, _ in enumerate(predict_many(client, batches()))]

    assert max(ahead) == WINDOW


def test_a_key_retired_in_mid_stream_costs_no_answer(
    client: Client, world: World
) -> None:
    def rotate() -> None:
        world.create(2)
        world.activate(2)
        world.retire(1)

    world.on_request = [lambda: None, rotate]

    require_all_answered(client)


def test_what_was_not_begun_is_asked_again_with_its_id(
    client: Client, world: World
) -> None:
    pauses: list[float] = []
    client.streams.pause = pauses.append

    def busy() -> None:
        raise BusyError("wait", 0.25)

    world.on_request = [lambda: None, busy]
    require_all_answered(client)

    assert pauses == [0.25]
    assert len(asked_ids(world)) == len(BATCHES) + 1
    assert len(set(asked_ids(world))) == len(BATCHES)


def test_a_longer_pause_than_the_deadline_is_not_waited_for(
    client: Client, world: World
) -> None:
    def busy() -> None:
        raise BusyError("wait", 3600.0)

    world.on_request = [busy]
    with pytest.raises(RemoteError, match="Busy"):
        list(predict_many(client, BATCHES))


def test_the_rest_of_a_stream_that_ended_is_asked_on_another_with_its_ids(
    client: Client, world: World
) -> None:
    """As a server does that stops: it says that nothing else was begun."""

    def stops(context: Any) -> None:
        context.set_trailing_metadata(((PUSHBACK, "1"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "StreamEnded: ask again")

    world.on_streamed = [None, None, stops]
    require_all_answered(client)

    assert world.streams == 2
    assert len(asked_ids(world)) == len(set(asked_ids(world))) == len(BATCHES)


def breaks(context: Any) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def test_what_may_have_been_answered_is_not_asked_again_by_who_forbids_it(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    client = ready(channels, world, tmp_path, resend_unsure=False)
    world.on_streamed = [None, breaks]
    answers = predict_many(client, BATCHES)
    next(answers)
    with pytest.raises(PeerUnavailable):
        next(answers)

    assert (world.streams, len(world.asked)) == (1, 1)


def test_what_may_have_been_answered_is_asked_again(
    client: Client, world: World
) -> None:
    """The log counts it once, by the question's name."""
    world.on_streamed = [None, breaks]

    require_all_answered(client)
    assert world.streams == 2


def test_a_server_that_is_away_is_passed_over_for_a_replica(
    channels: Channels, world: World, tmp_path: Path
) -> None:
    with grpc.insecure_channel("127.0.0.1:1") as away:
        both = Channels(
            channels.orchestrator,
            channels.key_holder,
            away,
            (channels.inference_server,),
        )
        require_all_answered(ready(both, world, tmp_path))


def test_after_half_of_the_deadline_another_stream_takes_over(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is cut off by the deadline of the stream it happens to be on."""
    now_s = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now_s[0])

    def later() -> None:
        now_s[0] += client.settings.deadline_s / 2

    monkeypatch.setattr("parties.data_owner.bulk.time", Clock)
    world.on_request = [lambda: None, later]
    require_all_answered(client)

    assert world.streams == 2
    assert len(world.asked) == len(BATCHES)


def test_a_refusal_is_the_servers_word(client: Client, world: World) -> None:
    def refuse() -> None:
        world.key_id = "another"

    world.on_request = [lambda: None, refuse]
    answers = predict_many(client, BATCHES)
    next(answers)
    with pytest.raises(RemoteRefusedError) as caught:
        next(answers)

    assert (caught.value.kind, caught.value.status.name) == (
        "NotAllowed",
        "PERMISSION_DENIED",
    )


def test_a_spent_budget_is_an_error_of_its_own(client: Client, world: World) -> None:
    world.budget = 3
    answers = predict_many(client, BATCHES)
    with pytest.raises(BudgetSpent):
        list(answers)


def test_a_stream_that_ends_before_its_answers_is_no_answer(
    client: Client, world: World
) -> None:
    world.on_streamed = [None, lambda _context: True]
    with pytest.raises(UnexpectedAnswerError, match="before its answers"):
        list(predict_many(client, BATCHES))


def test_an_answer_to_another_request_is_refused(client: Client, world: World) -> None:
    world.answer_id = "another"
    with pytest.raises(UnexpectedAnswerError):
        list(predict_many(client, BATCHES))

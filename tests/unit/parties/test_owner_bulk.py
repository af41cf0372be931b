"""Many pictures over a stream: in order, and asked again only where that is safe.

Every test is of both forms, the one of threads and that of an event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import numpy as np
import pytest

from core.errors import BudgetSpent, Exhausted, PeerUnavailable
from core.rpc.errors import RemoteError, RemoteRefusedError
from core.rpc.patience import PUSHBACK
from parties.data_owner import bulk
from parties.data_owner.answers import Answers, joined
from parties.data_owner.asynchronous import AsyncClient
from parties.data_owner.client import Channels, Client
from parties.data_owner.errors import UnexpectedAnswerError
from parties.data_owner.exchange import WINDOW
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.unit.parties.owner_world import World, client_of, plain_answer, served

BATCHES = np.random.default_rng(3).integers(0, 256, (20, 2, 8, 8, 3), np.uint8)

Predict = Callable[[Client, Iterable[np.ndarray]], Iterator[Answers]]


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


def of_threads(
    client: Client, batches: Iterable[np.ndarray], _address: str
) -> Iterator[Answers]:
    return bulk.predict_many(client, batches)


def of_an_event_loop(
    client: Client, batches: Iterable[np.ndarray], address: str
) -> Iterator[Answers]:
    """The loop stands still between two answers, as if their taker were slow."""
    with asyncio.Runner() as runner:
        answers = later(client, batches, address)

        async def step() -> Answers:
            return await anext(answers)

        try:
            while True:
                yield runner.run(step())
        except StopAsyncIteration:
            return


async def later(
    client: Client, batches: Any, address: str
) -> AsyncGenerator[Answers, None]:
    async with grpc.aio.insecure_channel(address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        asking = AsyncClient(client, [infer], client.settings)

        async def pause(seconds: float) -> None:
            client.streams.pause(seconds)

        asking.pause = pause
        async with aclosing(asking.predict_many(batches)) as answers:
            async for each in answers:
                yield each


@pytest.fixture(params=[of_threads, of_an_event_loop])
def predict_many(request: pytest.FixtureRequest, world: World) -> Predict:
    form: Callable[..., Iterator[Answers]] = request.param
    return lambda client, batches: form(client, batches, world.address)


def require_all_answered(predict_many: Predict, client: Client) -> None:
    answers = joined(list(predict_many(client, BATCHES)))
    expected = plain_answer(BATCHES.reshape(-1, 8, 8, 3))

    assert np.allclose(expected, answers.logits, atol=1e-5)
    assert len(answers.receipts) == len(BATCHES)


def asked_ids(world: World) -> list[str]:
    return [request.id for request in world.asked]


def test_every_batch_is_answered_over_one_stream_in_order(
    predict_many: Predict, client: Client, world: World
) -> None:
    require_all_answered(predict_many, client)

    assert (world.streams, len(world.asked)) == (1, len(BATCHES))


def test_no_more_batches_are_read_than_a_window_holds(
    predict_many: Predict, client: Client
) -> None:
    read = 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal read
        for batch in BATCHES:
            read += 1
            yield batch

    ahead = [read - taken for taken, _ in enumerate(predict_many(client, batches()))]

    assert max(ahead) == WINDOW


def test_a_key_retired_in_mid_stream_costs_no_answer(
    predict_many: Predict, client: Client, world: World
) -> None:
    def rotate() -> None:
        world.create(2)
        world.activate(2)
        world.retire(1)

    world.on_request = [lambda: None, rotate]

    require_all_answered(predict_many, client)


def test_what_was_not_begun_is_asked_again_with_its_id(
    predict_many: Predict, client: Client, world: World
) -> None:
    pauses: list[float] = []
    client.streams.pause = pauses.append

    def busy() -> None:
        raise BusyError("wait", 0.25)

    world.on_request = [lambda: None, busy]
    require_all_answered(predict_many, client)

    assert pauses == [0.25]
    assert len(asked_ids(world)) == len(BATCHES) + 1
    assert len(set(asked_ids(world))) == len(BATCHES)


def test_a_longer_pause_than_the_deadline_is_not_waited_for(
    predict_many: Predict, client: Client, world: World
) -> None:
    def busy() -> None:
        raise BusyError("wait", 3600.0)

    world.on_request = [busy]
    with pytest.raises(RemoteError, match="Busy"):
        list(predict_many(client, BATCHES))


def test_the_rest_of_a_stream_that_ended_is_asked_on_another_with_its_ids(
    predict_many: Predict, client: Client, world: World
) -> None:
    """As a server does that stops: it says that nothing else was begun."""

    def stops(context: Any) -> None:
        context.set_trailing_metadata(((PUSHBACK, "1"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "StreamEnded: ask again")

    world.on_streamed = [None, None, stops]
    require_all_answered(predict_many, client)

    assert world.streams == 2
    assert len(asked_ids(world)) == len(set(asked_ids(world))) == len(BATCHES)


def breaks(context: Any) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def test_what_may_have_been_answered_is_not_asked_again_by_who_forbids_it(
    predict_many: Predict, channels: Channels, world: World, tmp_path: Path
) -> None:
    client = ready(channels, world, tmp_path, resend_unsure=False)
    world.on_streamed = [None, breaks]
    answers = predict_many(client, BATCHES)
    next(answers)
    with pytest.raises(PeerUnavailable):
        next(answers)

    assert (world.streams, len(world.asked)) == (1, 1)


def test_what_may_have_been_answered_is_asked_again(
    predict_many: Predict, client: Client, world: World
) -> None:
    """The log counts it once, by the question's name."""
    world.on_streamed = [None, breaks]

    require_all_answered(predict_many, client)
    assert world.streams == 2


def test_a_server_that_is_away_is_passed_over_for_a_replica(
    predict_many: Predict, channels: Channels, world: World, tmp_path: Path
) -> None:
    with grpc.insecure_channel("127.0.0.1:1") as away:
        both = Channels(
            channels.orchestrator,
            channels.key_holder,
            away,
            (channels.inference_server,),
        )
        require_all_answered(predict_many, ready(both, world, tmp_path))


def test_after_half_of_the_deadline_another_stream_takes_over(
    predict_many: Predict, client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is cut off by the deadline of the stream it happens to be on."""
    now_s = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now_s[0])

    def later() -> None:
        now_s[0] += client.settings.deadline_s / 2

    monkeypatch.setattr("parties.data_owner.exchange.time", Clock)
    world.on_request = [lambda: None, later]
    require_all_answered(predict_many, client)

    assert world.streams == 2
    assert len(world.asked) == len(BATCHES)


def test_a_batch_that_was_long_in_coming_goes_by_another_stream(
    predict_many: Predict,
    client: Client,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deadline of the one that is open may have passed, or pass before its turn."""
    now_s, carried = [0.0], []

    class Clock:
        monotonic = staticmethod(lambda: now_s[0])

    def batches() -> Iterator[np.ndarray]:
        yield from BATCHES[:10]
        now_s[0] += client.settings.deadline_s
        yield from BATCHES[10:]

    monkeypatch.setattr("parties.data_owner.exchange.time", Clock)
    world.on_streamed = [lambda _context: carried.append(world.streams)] * 20
    answers = list(predict_many(client, batches()))

    assert len(answers) == len(BATCHES)
    assert carried == [1] * 10 + [2] * 10


def test_a_refusal_is_the_servers_word(
    predict_many: Predict, client: Client, world: World
) -> None:
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


def test_a_spent_budget_is_an_error_of_its_own(
    predict_many: Predict, client: Client, world: World
) -> None:
    world.budget = 3
    answers = predict_many(client, BATCHES)
    with pytest.raises(BudgetSpent):
        list(answers)


def test_a_stream_that_ends_before_its_answers_is_no_answer(
    predict_many: Predict, client: Client, world: World
) -> None:
    world.on_streamed = [None, lambda _context: True]
    with pytest.raises(UnexpectedAnswerError, match="before its answers"):
        list(predict_many(client, BATCHES))


def test_an_answer_to_another_request_is_refused(
    predict_many: Predict, client: Client, world: World
) -> None:
    world.answer_id = "another"
    with pytest.raises(UnexpectedAnswerError):
        list(predict_many(client, BATCHES))


def test_an_event_loop_goes_on_while_streams_wait(client: Client, world: World) -> None:
    """Batches may come from a coroutine too; here, each is read when the other was."""

    async def batches(turn: asyncio.Queue[None], other: asyncio.Queue[None]) -> Any:
        for batch in BATCHES:
            await turn.get()
            other.put_nowait(None)
            yield batch

    async def ask() -> list[list[Answers]]:
        one, two = asyncio.Queue[None](), asyncio.Queue[None]()
        one.put_nowait(None)
        asked = (batches(one, two), batches(two, one))
        return await asyncio.gather(
            *(_listed(later(client, each, world.address)) for each in asked)
        )

    for answers in asyncio.run(ask()):
        expected = plain_answer(BATCHES.reshape(-1, 8, 8, 3))
        assert np.allclose(expected, joined(answers).logits, atol=1e-5)
    assert world.streams == 2


async def _listed(answers: AsyncGenerator[Answers, None]) -> list[Answers]:
    return [each async for each in answers]


def test_who_leaves_an_event_loops_stream_early_ends_it(
    client: Client, world: World
) -> None:
    ended = Event()
    world.on_streamed = [lambda context: context.add_callback(ended.set) and None]

    async def ask() -> None:
        async with aclosing(later(client, BATCHES, world.address)) as answers:
            await anext(answers)

    asyncio.run(ask())
    assert ended.wait(60)

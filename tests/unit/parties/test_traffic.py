"""An owner that asks without pause: every request is a line, and says what happened."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from core.errors import BudgetSpent, KeymixerError, PeerUnavailable, SignatureError
from core.rpc.errors import RemoteError, RemoteRefusedError
from parties.data_owner.answers import Answers
from parties.data_owner.client import Channels, Client
from parties.data_owner.errors import NoKeyError, UnexpectedAnswerError
from parties.data_owner.inference import Pixels
from parties.data_owner.traffic import PAUSE_S, Asked, Asker, Log, keep_asking
from parties.data_owner.traffic import until_told as until
from tests.unit.parties.owner_world import World, client_of, plain_answer, served

DENIED, INTERNAL = StatusCode.FAILED_PRECONDITION, StatusCode.INTERNAL
IMAGES = np.random.default_rng(6).integers(0, 256, (7, 8, 8, 3), np.uint8)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    with served(world) as channels:
        yield channels


@pytest.fixture
def client(channels: Channels, tmp_path: Path, world: World) -> Client:
    client = client_of(channels, tmp_path)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    return client


class Clock:
    """Every look at it is a quarter of a second later."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def asker_of(client: Client, clock: Clock) -> Asker:
    return Asker(
        lambda part: client.predict(part, len(part)),
        lambda: client.sent,
        clock,
        lambda _: None,
    )


def asked_by(client: Client, count: int) -> list[Asked]:
    asker = asker_of(client, Clock())
    return list(keep_asking(IMAGES, 3, asker, lambda made: made >= count))


def _raiser(error: KeymixerError) -> Callable[[Pixels], Answers]:
    def predict(_images: Pixels) -> Answers:
        raise error

    return predict


def test_every_request_is_written_with_its_answer(client: Client) -> None:
    """The images come round and round, and the last of a round are fewer."""
    lines = [json.loads(asked.line()) for asked in asked_by(client, 4)]
    plain = plain_answer(IMAGES)

    assert [(0, 3), (3, 3), (6, 1), (2, 3)] == [
        (x["first"], x["images"]) for x in lines
    ]
    assert {("answered", "", 1, 1)} == {
        (x["outcome"], x["kind"], x["sent"], x["key_version"]) for x in lines
    }
    for line in lines:
        rows = slice(line["first"], line["first"] + line["images"])
        assert np.allclose(plain[rows], line["logits"], atol=1e-5)
    assert [2, 3, 4, 5] == [x["released"][0]["audit_index"] for x in lines]


def test_a_request_has_its_times_by_the_clock_on_the_wall(client: Client) -> None:
    (asked,) = asked_by(client, 1)

    assert (1000_250.0, 1000_500.0) == (asked.started_ms, asked.ended_ms)


def test_answered_by_the_successor_it_was_sent_twice_and_not_refused(
    client: Client, world: World
) -> None:
    def rotate() -> None:
        world.create(2)
        world.activate(2)
        world.retire(1)

    world.on_request.append(rotate)
    (asked,) = asked_by(client, 1)

    assert ("answered", 2, 2) == (asked.outcome, asked.sent, asked.key_version)


def test_refused_it_pauses_and_goes_on_until_it_is_answered_again(
    client: Client, world: World
) -> None:
    """A suspended key is refused and, resumed, answers again."""
    world.on_request.append(world.live.clear)
    pauses: list[float] = []

    def resumed(seconds: float) -> None:
        pauses.append(seconds)
        world.live.add(1)

    asker = replace(asker_of(client, Clock()), pause=resumed)

    first, second = keep_asking(IMAGES, 3, asker, lambda made: made >= 2)

    assert ("refused", "NoKey", 0, ()) == (
        first.outcome,
        first.kind,
        first.key_version,
        first.logits,
    )
    assert [PAUSE_S] == pauses
    assert second.outcome == "answered"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RemoteRefusedError("KeyRefused", "", DENIED), "refused"),
        (NoKeyError("none"), "refused"),
        (BudgetSpent("nothing is left"), "refused"),
        (PeerUnavailable("away"), "failed"),
        (RemoteError("Internal", "", INTERNAL), "failed"),
        (UnexpectedAnswerError("another's"), "failed"),
        (SignatureError("forged"), "failed"),
    ],
)
def test_only_what_somebody_refused_is_a_refusal(
    error: KeymixerError, outcome: str
) -> None:
    """An answer to another's question is no refusal."""
    asker = Asker(_raiser(error), lambda: 0, Clock(), lambda _: None)

    asked = asker.ask(IMAGES[:2], 0)

    assert (outcome, error.kind) == (asked.outcome, asked.kind)


def test_the_log_counts_what_it_writes(client: Client, world: World) -> None:
    file = io.StringIO()
    log = Log(file)
    for asked in asked_by(client, 2):
        log.write(asked)
    world.retire(1)
    for asked in asked_by(client, 1):
        log.write(asked)

    assert len(file.getvalue().splitlines()) == 3
    assert log.facts() == {
        "requests": 3,
        "answered": 2,
        "refused": 1,
        "failed": 0,
        "key_version": 1,
        "model_versions": {"1": 2},
    }


def test_told_to_stop_it_writes_down_the_request_that_is_on_its_way(
    client: Client, world: World
) -> None:
    """SIGTERM comes while a request is being answered."""
    world.on_request += [
        lambda: None,
        lambda: os.kill(os.getpid(), signal.SIGTERM),
    ]
    before = signal.getsignal(signal.SIGTERM)

    with until(None) as over:
        made = list(keep_asking(IMAGES, 3, asker_of(client, Clock()), over))

    assert ["answered", "answered"] == [asked.outcome for asked in made]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_number_of_requests_ends_it_too(client: Client) -> None:
    with until(5) as over:
        made = list(keep_asking(IMAGES, 3, asker_of(client, Clock()), over))

    assert len(made) == 5


def test_a_successor_that_cannot_be_had_yet_costs_no_answer(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key holder is away, or does not know the version any more."""
    world.create(2)
    for trouble in (
        PeerUnavailable("away"),
        RemoteRefusedError("KeyRefused", "", DENIED),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(type(client._delivery), "fetch", _raising(trouble))
            (asked,) = asked_by(client, 1)

        assert ("answered", 1) == (asked.outcome, asked.key_version)


def test_the_only_version_cannot_be_done_without(
    channels: Channels,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of(channels, tmp_path)
    world.create()
    monkeypatch.setattr(
        type(client._delivery), "fetch", _raising(PeerUnavailable("away"))
    )

    with pytest.raises(PeerUnavailable):
        client.sync_keys()


def _raising(error: KeymixerError) -> Callable[..., None]:
    def fetch(*_: Any) -> None:
        raise error

    return fetch


def test_rotated_between_two_questions_the_client_asks_both_again(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns of version 1, and of the models issued for version 2 only."""
    versions = client.key_versions

    def rotated_afterwards() -> Any:
        known = versions()
        world.create(2)
        world.activate(2)
        world.live.discard(1)
        monkeypatch.undo()
        return known

    monkeypatch.setattr(client, "key_versions", rotated_afterwards)

    assert client.use(fresh=True).key.version == 2

"""Several servers, several requests on their way, and both kinds of client."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from core.errors import ConfigurationError, PeerUnavailable
from core.rpc.identity import SpiffeId
from core.rpc.settings import Peer
from parties.data_owner.asynchronous import AsyncClient
from parties.data_owner.client import Channels, Client
from parties.data_owner.settings import OwnerSettings, read_datatype
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.unit.parties.owner_world import (
    FEDERATION,
    HOLDER,
    OWNER,
    World,
    client_of,
    plain_answer,
    served,
)

IMAGES = np.random.default_rng(6).integers(0, 256, (7, 8, 8, 3), np.uint8)
NOBODY = "127.0.0.1:1"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def channels(world: World) -> Iterator[Channels]:
    with served(world) as channels:
        yield channels


def ready(world: World, channels: Channels, folder: Path, **changes: Any) -> Client:
    client = client_of(channels, folder, **changes)
    client.register()
    world.create()
    client.sync_keys()
    world.activate(1)
    return client


def test_the_next_server_is_asked_when_one_is_away(
    world: World, channels: Channels, tmp_path: Path
) -> None:
    with grpc.insecure_channel(NOBODY) as away:
        both = Channels(
            channels.orchestrator,
            channels.key_holder,
            away,
            (channels.inference_server,),
        )
        client = ready(world, both, tmp_path)
        answers = [client.predict(IMAGES) for _ in range(2)]

    assert np.allclose(plain_answer(IMAGES), answers[1].logits, atol=1e-5)
    assert (3, 2) == (client.sent, len(world.asked))


def test_nobody_there_is_said_within_the_deadline(
    world: World, channels: Channels, tmp_path: Path
) -> None:
    with grpc.insecure_channel(NOBODY) as away:
        nobody = Channels(channels.orchestrator, channels.key_holder, away)
        client = ready(world, nobody, tmp_path)
        with pytest.raises(PeerUnavailable):
            client.predict(IMAGES)

    assert client.sent == 5


def test_several_requests_are_on_their_way_and_answers_stay_in_order(
    world: World, channels: Channels, tmp_path: Path
) -> None:
    client = ready(world, channels, tmp_path)
    held: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for at in range(len(IMAGES)):
            held.append(at)
            yield IMAGES[at : at + 1]

    most, logits = 0, []
    for answers in client.predict_each(batches(), in_flight=3):
        logits.append(answers.logits)
        most = max(most, len(held) - len(logits) + 1)

    assert np.allclose(plain_answer(IMAGES), np.concatenate(logits), atol=1e-5)
    assert most == 3


@pytest.mark.parametrize("datatype", ["FP16", "UINT8"])
def test_blocks_travel_as_the_settings_say_and_the_log_has_their_digest(
    world: World, channels: Channels, tmp_path: Path, datatype: str
) -> None:
    client = ready(world, channels, tmp_path, datatype=datatype)

    answers = client.predict(IMAGES)

    assert datatype == world.asked[0].inputs[0].datatype
    assert np.abs(plain_answer(IMAGES) - answers.logits).max() < 0.2
    assert len(client.redeem(answers.receipts)) == 1


def test_many_questions_at_a_time_from_an_event_loop(
    world: World, channels: Channels, tmp_path: Path
) -> None:
    """One of them meets a key that was just retired."""
    client = ready(world, channels, tmp_path, refresh_s=60.0)

    def rotate() -> None:
        world.create(2)
        world.activate(2)
        world.retire(1)

    world.on_request.append(rotate)

    async def ask() -> list[np.ndarray]:
        async with grpc.aio.insecure_channel(world.address) as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            asking = AsyncClient(client, [infer], client.settings)
            parts = (asking.predict(IMAGES[at : at + 1]) for at in range(7))
            return [each.logits for each in await asyncio.gather(*parts)]

    found = np.concatenate(asyncio.run(ask()))
    assert np.allclose(plain_answer(IMAGES), found, atol=1e-5)
    assert {2} <= {r.parameters["key_version"].int64_param for r in world.asked}


def test_people_name_a_datatype_or_are_told_which_there_are() -> None:
    assert read_datatype("float16") == "FP16"
    with pytest.raises(ConfigurationError, match="float32, float16, uint8"):
        read_datatype("int4")


def test_owners_begin_with_different_replicas_and_know_them_all() -> None:
    """One owner always with the same: there its embedding is in memory."""
    peers = tuple(Peer(f"127.0.0.1:{port}", HOLDER) for port in (1, 2, 3))
    first = peers[0]
    settings = OwnerSettings(FEDERATION, first, first, first, inference_servers=peers)
    owners = [SpiffeId(FEDERATION, f"owner-{n}", "data-owner") for n in range(60)]
    begun = [settings.servers_for(owner)[0] for owner in owners]

    assert all(set(settings.servers_for(owner)) == set(peers) for owner in owners)
    assert begun == [settings.servers_for(owner)[0] for owner in owners]
    assert all(begun.count(peer) > 10 for peer in peers)


def test_the_only_inference_server_is_the_one_to_ask() -> None:
    peer = Peer("127.0.0.1:1", HOLDER)
    settings = OwnerSettings(FEDERATION, peer, peer, peer)

    assert (peer,) == settings.servers_for(OWNER)

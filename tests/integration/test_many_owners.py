"""Requests of different owners in one batch, over mutual TLS, with the log on."""

import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from core.architecture import Architecture
from core.blocks import encrypt
from core.convmixer import take_apart
from core.errors import KeymixerError
from core.keys import derive_key
from core.rpc.health import require_serving
from core.rpc.identity import SpiffeId
from parties.inference_server.engine import Backbone, Logits, Question
from parties.inference_server.engines.onnxruntime_engine import OnnxRuntimeEngine
from protos import open_inference_pb2 as pb
from tests.integration.cast import INFERENCE_SERVICE
from tests.integration.hub import (
    LONG_S,
    Hub,
    SlowEngine,
    open_hub,
    question,
    wait_until,
)
from tests.unit.orchestrator.ledger import ALDER_ID, BIRCH_ID, CLOUD_ID, HUB_ID, key_id
from tests.unit.parties.stage import Release, images

Answer = pb.ModelInferResponse


class GatedEngine(SlowEngine):
    """Computes rightly, one batch for each that a test lets go on."""

    def __init__(self, release: Release) -> None:
        super().__init__()
        self._tensors = take_apart(release.model)[1]
        self._inner: Backbone | None = None
        self.batches: list[int] = []
        self.shut = False

    def load(
        self, architecture: Architecture, tensors: Mapping[str, np.ndarray]
    ) -> "GatedEngine":
        self._inner = OnnxRuntimeEngine(threads=1).load(architecture, self._tensors)
        return self

    def answer(self, questions: Sequence[Question]) -> list[Logits]:
        super().answer(questions)
        assert self._inner is not None
        self.batches.append(len(questions))
        return self._inner.answer(questions)

    def let_go_on(self, computations: int) -> None:
        if not self.shut:
            super().let_go_on(computations)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with open_hub(tmp_path) as hub, hub.serving():
        hub.engine = GatedEngine(hub.cast.release)
        yield hub


def ask(hub: Hub, request: pb.ModelInferRequest, owner: SpiffeId) -> Answer:
    with hub.asking(owner) as stub:
        return stub.ModelInfer(request, timeout=LONG_S)


def encrypted(owner: SpiffeId, pictures: np.ndarray) -> pb.ModelInferRequest:
    """A question about pictures, under the key that the hub gave their owner."""
    seed = owner.organisation.encode().ljust(32)
    key = derive_key(seed, key_id=key_id(owner), version=1, patch_size=4, channels=3)
    request = question(owner)
    blocks = encrypt(pictures, key)
    request.raw_input_contents[0] = blocks.astype("<f4").tobytes()
    request.inputs[0].shape[:] = blocks.shape
    return request


def logits_of(answer: Answer) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(
        tuple(answer.outputs[0].shape)
    )


def plain(hub: Hub, pictures: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = hub.cast.release.model(torch.from_numpy(pictures)).numpy()
    return logits


def gated(hub: Hub) -> GatedEngine:
    assert isinstance(hub.engine, GatedEngine)
    return hub.engine


def test_two_owners_share_a_batch_and_each_has_its_own_right_answer(hub: Hub) -> None:
    engine = gated(hub)
    pictures = images(6)
    mine, others = pictures[1:3], pictures[3:]
    with hub.inference_server(), ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, hub, encrypted(ALDER_ID, pictures[:1]), ALDER_ID)
        engine.wait_begun()
        alder = pool.submit(ask, hub, encrypted(ALDER_ID, mine), ALDER_ID)
        birch = pool.submit(ask, hub, encrypted(BIRCH_ID, others), BIRCH_ID)
        hub.turns.wait_for(3)
        engine.let_go_on(2)

        for asked, about in ((alder, mine), (birch, others)):
            np.testing.assert_allclose(
                plain(hub, about), logits_of(asked.result(LONG_S)), atol=1e-5
            )
        first.result(LONG_S)
    assert engine.batches == [1, 2]
    batches = [entry.subject["batch"] for entry in hub.ledger.entries("inference")]
    assert sorted(map(int, batches)) == [1, 5, 5]


def test_a_flood_of_64_calls_puts_another_owner_off_by_one_batch(hub: Hub) -> None:
    engine = gated(hub)
    with hub.inference_server(), ThreadPoolExecutor(66) as pool:
        first = pool.submit(ask, hub, question(ALDER_ID), ALDER_ID)
        engine.wait_begun()
        with hub.asking(ALDER_ID) as stub:
            flood = [
                pool.submit(stub.ModelInfer, question(ALDER_ID), timeout=LONG_S)
                for _ in range(64)
            ]
            hub.turns.wait_for(65)
            calm = pool.submit(ask, hub, question(BIRCH_ID), BIRCH_ID)
            hub.turns.wait_for(1)
            engine.let_go_on(2)
            calm.result(LONG_S)
            assert engine.batches == [1, 32]
            engine.let_go_on(3)
            for each in [first, *flood]:
                each.result(LONG_S)


def test_who_asks_too_fast_is_told_when_to_come_again_and_nothing_is_computed(
    hub: Hub,
) -> None:
    engine = gated(hub)
    engine.let_go_on(9)
    limits = {str(ALDER_ID): {"images_per_s": 0.001, "burst": 1}}
    with hub.inference_server(limits=limits):
        ask(hub, question(ALDER_ID), ALDER_ID)
        with hub.asking(ALDER_ID) as stub, pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(question(ALDER_ID), timeout=LONG_S)
        for _ in range(3):
            ask(hub, question(BIRCH_ID), BIRCH_ID)

    call = caught.value
    assert isinstance(call, grpc.Call)
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (call.details() or "").startswith("TooFast: ")
    trailers = {each[0]: each[1] for each in call.trailing_metadata() or ()}
    assert 900_000 < int(trailers["grpc-retry-pushback-ms"]) <= 1_000_000
    assert engine.asked == 4
    assert len(hub.ledger.entries("inference")) == 4


def test_a_server_that_stops_answers_what_it_has_accepted(hub: Hub) -> None:
    engine = gated(hub)
    with ThreadPoolExecutor(4) as pool:
        with hub.inference_server():
            waiting = [
                pool.submit(ask, hub, question(ALDER_ID), ALDER_ID) for _ in range(3)
            ]
            engine.wait_begun()
            hub.turns.wait_for(3)
            engine.shut = True
            let_go: Future[None] = pool.submit(_let_go_when_it_stops, hub)
        let_go.result(LONG_S)
        assert all(each.result(LONG_S).outputs for each in waiting)
    assert len(hub.ledger.entries("inference")) == 3


def _let_go_when_it_stops(hub: Hub) -> None:
    with hub.cast.channel(HUB_ID, CLOUD_ID) as channel:

        def stops() -> bool:
            try:
                require_serving(channel, INFERENCE_SERVICE, str(CLOUD_ID), 5.0)
            except KeymixerError:
                return True
            return False

        wait_until(stops)
    gated(hub).shut = False
    gated(hub).let_go_on(9)


def test_what_the_server_does_can_be_fetched_as_metrics(hub: Hub) -> None:
    """And says nothing of who asked."""
    engine = gated(hub)
    engine.let_go_on(9)
    limits = {str(ALDER_ID): {"max_images": 1}}
    with hub.inference_server(metrics="127.0.0.1:0", limits=limits):
        ask(hub, question(ALDER_ID), ALDER_ID)
        with pytest.raises(KeymixerError, match="TooLarge"):
            ask(hub, encrypted(ALDER_ID, images(2)), ALDER_ID)
        address = (hub.cast.home(CLOUD_ID) / "metrics-address").read_text()
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            text = answer.read().decode()

    lines = text.splitlines()
    assert "keymixer_answers_total 1.0" in lines
    assert "keymixer_batch_images_sum 1.0" in lines
    assert 'keymixer_refusals_total{kind="TooLarge"} 1.0' in lines
    assert ALDER_ID.organisation not in text

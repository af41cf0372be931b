"""Revoked is refused: at the door, in the queue, at the log, and when cut off from it.

Everything is real but the engine, and the clock by which a server that is cut off
learns how long it has been so: TLS, registry, log and threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.errors import KeymixerError, PeerUnavailable
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.health import NotServingError, require_serving
from core.rpc.identity import SpiffeId
from orchestrator.registry.lifecycle import KeyAction
from protos import open_inference_pb2 as pb
from protos import registry_pb2, registry_pb2_grpc
from tests.integration.cast import INFERENCE_SERVICE
from tests.integration.hub import A_DAY_S, LONG_S, Hub, open_hub, question, wait_until
from tests.unit.orchestrator.ledger import (
    ALDER_ID,
    BIRCH_ID,
    CLOUD_ID,
    HUB_ID,
    OPERATOR_ID,
)

Answer = pb.ModelInferResponse


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with open_hub(tmp_path) as hub, hub.serving():
        yield hub


def ask(hub: Hub, owner: SpiffeId, timeout_s: float = LONG_S) -> Answer:
    with hub.asking(owner) as stub:
        return stub.ModelInfer(question(owner), timeout=timeout_s)


def kind_of(asked: Callable[[], object]) -> str:
    """How it was refused; empty: it was answered."""
    try:
        asked()
    except KeymixerError as error:
        return error.kind
    return ""


def wait_refused(hub: Hub, owner: SpiffeId, kind: str) -> None:
    """Return once the owner is refused at the door.

    Until then a request would wait for the engine, so it is asked for a short time.
    """
    hub.wait_heard()
    wait_until(lambda: kind_of(lambda: ask(hub, owner, timeout_s=3.0)) == kind)


@contextmanager
def queue(hub: Hub, length: int) -> Iterator[list["Future[Answer]"]]:
    """Requests of Alder's, of which one is computed and the others wait behind it."""
    with ThreadPoolExecutor(length) as pool:
        waiting = [pool.submit(ask, hub, ALDER_ID) for _ in range(length)]
        hub.engine.wait_begun()
        hub.turns.wait_for(length)
        try:
            yield waiting
        finally:
            hub.engine.let_go_on(length)


@pytest.mark.parametrize(
    "action", [KeyAction.REVOKE, KeyAction.SUSPEND, KeyAction.COMPROMISE]
)
def test_of_those_that_wait_nobody_is_answered_after_the_revocation(
    hub: Hub, action: KeyAction
) -> None:
    with hub.inference_server(), queue(hub, 6) as waiting:
        hub.ledger.move(ALDER_ID, 1, action)
        wait_refused(hub, ALDER_ID, "KeyRefused")
        hub.engine.let_go_on(6)

        assert {kind_of(request.result) for request in waiting} == {"KeyRefused"}
    assert hub.engine.asked == 1, "the one that was being computed"
    assert hub.ledger.entries("inference") == []
    assert hub.ledger.images_used() == 0


def test_an_answer_that_is_computed_already_is_refused_by_the_log(hub: Hub) -> None:
    """Before the server has heard anything: this check is exact."""
    with hub.inference_server(), ThreadPoolExecutor(1) as pool:
        hub.silent.set()
        computed = pool.submit(ask, hub, ALDER_ID)
        hub.engine.wait_begun()
        hub.ledger.move(ALDER_ID, 1, KeyAction.REVOKE)
        hub.engine.let_go_on(1)

        assert kind_of(computed.result) == "KeyRefused"
        (entry,) = hub.ledger.entries("inference.refused")
        assert entry.subject["refusal"] == "KeyRefused"


def test_the_other_owner_notices_nothing(hub: Hub) -> None:
    hub.engine.let_go_on(100)
    with hub.inference_server():
        assert kind_of(lambda: ask(hub, ALDER_ID)) == ""
        hub.ledger.move(ALDER_ID, 1, KeyAction.REVOKE)
        wait_refused(hub, ALDER_ID, "KeyRefused")

        assert kind_of(lambda: ask(hub, BIRCH_ID)) == ""


def test_a_revoked_owners_open_connection_is_served_no_more(hub: Hub) -> None:
    hub.engine.let_go_on(100)
    with hub.inference_server(), hub.asking(ALDER_ID) as stub:

        def asked_again() -> None:
            with remote_errors("cloud"):
                stub.ModelInfer(question(ALDER_ID))

        assert kind_of(asked_again) == ""
        hub.ledger.revoke(ALDER_ID)
        wait_until(lambda: kind_of(asked_again) == "NotAllowed")
        assert kind_of(lambda: ask(hub, BIRCH_ID)) == ""
    released = hub.ledger.entries("inference")
    (revoked,) = hub.ledger.entries("party.revoked")
    after = [e for e in released if e.index > revoked.index]
    assert {entry.subject["owner"] for entry in after} == {str(BIRCH_ID)}


def test_a_revoked_partys_open_connection_to_the_orchestrator_ends_at_once(
    hub: Hub,
) -> None:
    """Not even its health is told; the next call already is refused."""
    with hub.cast.channel(ALDER_ID, HUB_ID) as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        registry.ListKeyVersions(registry_pb2.ListKeyVersionsRequest())
        health.Check(health_pb2.HealthCheckRequest())
        hub.ledger.revoke(ALDER_ID)

        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as caught:
            registry.ListKeyVersions(registry_pb2.ListKeyVersionsRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def healthy(hub: Hub) -> bool:
    """Whether its health says so, and not only that nothing came in time."""
    with hub.cast.channel(HUB_ID, CLOUD_ID) as channel:
        try:
            require_serving(channel, INFERENCE_SERVICE, "cloud", LONG_S)
        except NotServingError:
            return False
    return True


def test_a_server_that_is_cut_off_stops_serving_and_heals_by_itself(hub: Hub) -> None:
    """The orchestrator is there, but its word on who stands how does not arrive."""
    hub.engine.let_go_on(100)
    with hub.inference_server():
        assert kind_of(lambda: ask(hub, ALDER_ID)) == ""
        hub.cut_off()
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "StandingUnknown"
        wait_until(lambda: not healthy(hub))
        asked = hub.engine.asked
        hub.ledger.move(ALDER_ID, 1, KeyAction.REVOKE)
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "StandingUnknown"
        assert kind_of(lambda: ask(hub, BIRCH_ID)) == "StandingUnknown"
        assert hub.engine.asked == asked

        hub.silent.clear()
        wait_until(lambda: healthy(hub))
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "KeyRefused"
        assert kind_of(lambda: ask(hub, BIRCH_ID)) == ""


def test_those_that_wait_while_the_server_is_cut_off_are_not_computed(
    hub: Hub,
) -> None:
    with hub.inference_server(), queue(hub, 3) as waiting:
        hub.cut_off()
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "StandingUnknown"
        hub.engine.let_go_on(3)
        kinds = sorted(kind_of(request.result) for request in waiting)

    # The log could be reached for the one that was computed: its verdict is exact.
    assert kinds == ["", "StandingUnknown", "StandingUnknown"]
    assert hub.engine.asked == 1


@pytest.mark.slow
def test_an_orchestrator_that_went_away_is_missed_and_found_again(
    tmp_path: Path,
) -> None:
    with open_hub(tmp_path) as hub, ExitStack() as stack:
        hub.engine.let_go_on(100)
        with hub.serving():
            address = hub.cast.addresses[HUB_ID]
            stack.enter_context(hub.inference_server())
        hub.clock.now_s += A_DAY_S
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "StandingUnknown"
        wait_until(lambda: not healthy(hub))
        with hub.serving(address):
            hub.wait_healthy()
            assert kind_of(lambda: ask(hub, ALDER_ID)) == ""


def test_a_deadline_shorter_than_the_wait_is_kept(hub: Hub) -> None:
    with hub.inference_server(), queue(hub, 1) as (first,):
        # Either gRPC says so, on the owner's side, or the server is quicker.
        with pytest.raises(PeerUnavailable):
            ask(hub, BIRCH_ID, timeout_s=0.5)
        hub.engine.let_go_on(1)
        assert first.result().outputs
        # Whoever comes next is served: the one that gave up holds no place.
        hub.engine.let_go_on(1)
        assert ask(hub, ALDER_ID).outputs

    assert hub.engine.asked == 2
    owners = [entry.subject["owner"] for entry in hub.ledger.entries("inference")]
    assert owners == [str(ALDER_ID), str(ALDER_ID)]


@pytest.mark.parametrize("how", ["at once", "in silence"])
def test_a_lost_verdict_fails_no_request_and_is_recorded_once(
    hub: Hub, how: str
) -> None:
    hub.engine.let_go_on(100)
    with hub.inference_server():
        hub.lose.append(how)
        answer = ask(hub, ALDER_ID)

    (entry,) = hub.ledger.entries("inference")
    assert answer.parameters["audit_index"].int64_param == entry.index
    assert hub.ledger.images_used() == 1
    assert hub.lose == []


def test_a_verdict_lost_twice_is_no_answer(hub: Hub) -> None:
    hub.engine.let_go_on(100)
    with hub.inference_server():
        hub.lose += ["at once", "at once"]
        with pytest.raises(RemoteError) as caught:
            ask(hub, ALDER_ID)

    assert caught.value.kind == "AuditUnavailable"
    assert len(hub.ledger.entries("inference")) == 1, "and it is recorded once"


def test_an_operator_gets_through_to_a_server_that_is_cut_off(hub: Hub) -> None:
    hub.engine.let_go_on(100)
    with hub.inference_server():
        hub.cut_off()
        assert kind_of(lambda: ask(hub, ALDER_ID)) == "StandingUnknown"
        with hub.cast.channel(OPERATOR_ID, CLOUD_ID) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            wait_until(lambda: health.Check(request).status == not_serving)

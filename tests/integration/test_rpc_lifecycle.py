"""The transport kit over real TLS: health, reflection, readiness, retry, the end."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from core.errors import (
    ConfigurationError,
    PeerUnavailable,
    WrongFederationError,
)
from core.rpc.channel import wait_ready
from core.rpc.errors import remote_errors
from core.rpc.identity import OPERATOR, Identity, SpiffeId
from core.rpc.server import ServerSettings, serve
from orchestrator.certificates import DevelopmentCA
from tests.integration.echo import (
    LONG_S,
    OWNER,
    POLICY,
    PROVIDER,
    SERVER,
    SERVICE,
    Echo,
    Federation,
    House,
    Stub,
    opened,
)

Word = health_pb2.HealthCheckResponse


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path, DevelopmentCA.create(tmp_path / "ca"))


@pytest.fixture
def house(federation: Federation) -> Iterator[House]:
    with opened(federation.enrol(SERVER)) as house:
        yield house


@pytest.fixture
def owner(federation: Federation) -> Identity:
    return federation.enrol(OWNER)


def watch(stub: Stub) -> Iterator[health_pb2.HealthCheckResponse]:
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    return iter(health_pb2_grpc.HealthStub(stub.channel).Watch(request))


# Health and reflection


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_for_every_role_and_says_when_the_party_is_ready(
    house: House, federation: Federation, service: str
) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    with house.visit(federation.enrol(PROVIDER)) as stub:
        check = health_pb2_grpc.HealthStub(stub.channel).Check
        assert check(request).status == Word.NOT_SERVING
        house.server.set_serving(True)
        assert check(request).status == Word.SERVING


def test_health_and_reflection_are_not_for_another_federation(
    house: House, federation: Federation
) -> None:
    stranger = federation.enrol(SpiffeId("evil", "clinic", OPERATOR))
    with house.visit(stranger) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(stub.channel).Check(
                health_pb2.HealthCheckRequest()
            )
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(stub))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            listed(stub)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    assert {r.kind for r in house.refusals} == {"WrongFederation"}
    assert len(house.refusals) == 3


def test_reflection_names_what_is_served(house: House, federation: Federation) -> None:
    with house.visit(federation.enrol(SpiffeId("demo", "office", OPERATOR))) as stub:
        names = listed(stub)

    assert {SERVICE, "grpc.health.v1.Health"} <= names


def test_reflection_is_for_operators_only(house: House, owner: Identity) -> None:
    with house.visit(owner) as stub, pytest.raises(grpc.RpcError) as caught:
        listed(stub)

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def listed(stub: Stub) -> set[str]:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
    (answer,) = call.ServerReflectionInfo(iter([ask]))
    return {service.name for service in answer.list_services_response.service}


def test_nobody_may_watch_health(house: House, owner: Identity) -> None:
    """A watch holds a worker, or deadlocks the library: health is to be asked for."""
    with house.visit(owner) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(stub))
        assert stub.ask("Say")

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


# Waiting for a peer


def test_whoever_waits_goes_on_once_the_peer_is_ready(
    house: House, owner: Identity
) -> None:
    whom = (house.server.address, owner, SERVER, SERVICE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_ready, *whom, timeout_s=LONG_S)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        house.server.set_serving(True)
        waiting.result(LONG_S)


@pytest.mark.parametrize(
    ("peer", "why"), [(SERVER, "NOT_SERVING"), (PROVIDER, "another party")]
)
def test_whoever_waits_in_vain_learns_why(
    house: House, owner: Identity, peer: SpiffeId, why: str
) -> None:
    with pytest.raises(PeerUnavailable, match=why) as caught:
        wait_ready(house.server.address, owner, peer, SERVICE, timeout_s=0.5)

    assert str(peer) in str(caught.value)
    assert house.server.address in str(caught.value)


def test_waiting_for_nobody_ends_too(house: House, owner: Identity) -> None:
    address = house.server.address
    house.close()

    with pytest.raises(PeerUnavailable, match="nobody listens"):
        wait_ready(address, owner, SERVER, SERVICE, timeout_s=0.5)


def test_whoever_waits_sees_a_peer_that_starts_later(
    house: House, owner: Identity, federation: Federation
) -> None:
    address = house.server.address
    house.close()
    ready = threading.Event()

    def wait() -> None:
        wait_ready(address, owner, SERVER, SERVICE, timeout_s=LONG_S)
        ready.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.5)
    identity, echo = federation.enrol(SERVER), Echo()
    with serve(identity, POLICY, echo.register, [SERVICE], address) as again:
        again.set_serving(True)
        assert ready.wait(LONG_S)
    waiting.join(LONG_S)


# Retry


def test_only_named_methods_are_tried_again(house: House, owner: Identity) -> None:
    house.echo.away = 2

    with house.visit(owner, retries=[f"/{SERVICE}/Say"]) as stub:
        assert stub.ask("Say")
    assert house.echo.away == 0

    house.echo.away = 2
    with (
        house.visit(owner, retries=[f"/{SERVICE}/Fail"]) as stub,
        pytest.raises(PeerUnavailable),
        remote_errors("the server"),
    ):
        stub.ask("Say")
    assert house.echo.away == 1


# Starting and stopping


def test_a_taken_port_is_refused(house: House, federation: Federation) -> None:
    """With gRPC's default the second server would share the first one's calls."""
    with (
        pytest.raises(ConfigurationError, match="cannot listen"),
        serve(
            federation.enrol(SERVER),
            POLICY,
            Echo().register,
            [SERVICE],
            house.server.address,
        ),
    ):
        pytest.fail("two servers on one port")


def test_a_party_serves_no_other_federation(federation: Federation) -> None:
    with (
        pytest.raises(WrongFederationError),
        serve(
            federation.enrol(SERVER),
            POLICY,
            Echo().register,
            [SERVICE],
            federation="other",
        ),
    ):
        pytest.fail("served another federation")


def test_a_running_call_ends_well_when_the_server_drains(
    house: House, owner: Identity
) -> None:
    with house.visit(owner) as stub:
        answer = stub.start("Wait", b"x")
        assert house.echo.entered.wait(LONG_S)
        threading.Timer(0.5, house.echo.release.set).start()
        house.close()

        assert answer.result(LONG_S) == b"x"
        with pytest.raises(PeerUnavailable), remote_errors("the server"):
            stub.ask("Say")


def test_a_call_that_outlives_the_drain_is_cancelled(
    federation: Federation, owner: Identity
) -> None:
    settings = ServerSettings(drain_s=0.2)
    with (
        opened(federation.enrol(SERVER), settings=settings) as house,
        house.visit(owner) as stub,
    ):
        answer = stub.start("Wait", b"x")
        assert house.echo.entered.wait(LONG_S)
        house.close()

        assert not house.echo.left.is_set(), "it was waited for"
        with pytest.raises(grpc.RpcError):
            answer.result(LONG_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_nothing_else(
    house: House, owner: Identity, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def send() -> None:
        # Not before it is expected: it would end the tests.
        while signal.getsignal(number) is before:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sending = threading.Thread(target=send)
    sending.start()
    house.server.wait()
    sending.join()

    assert signal.getsignal(number) is before
    with house.visit(owner) as stub:
        assert stub.ask("Say")


def test_the_wait_can_be_ended_from_another_thread(house: House) -> None:
    waiting = threading.Thread(target=house.server.wait)
    waiting.start()
    house.server.stop()
    waiting.join(LONG_S)

    assert not waiting.is_alive()

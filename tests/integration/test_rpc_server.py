"""The transport kit over real TLS on loopback: who gets in, and what they learn."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, tzinfo
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import grpc
import pytest
from grpc._server import _RPCState

from core.errors import (
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    PeerUnavailable,
    StorageError,
)
from core.rpc.errors import RemoteError, RemoteUnavailableError, remote_errors
from core.rpc.identity import (
    DATA_OWNER,
    ExpiredCertificateError,
    Identity,
    SpiffeId,
    dns_name,
)
from core.rpc.policy import Refusal
from orchestrator.certificates import DevelopmentCA
from tests.integration.echo import (
    CONFIDED,
    LONG_S,
    NO_MESSAGE,
    OWNER,
    PROVIDER,
    SERVER,
    SERVICE,
    SETTINGS,
    Federation,
    House,
    Raw,
    Stub,
    endless,
    opened,
    refused,
)

Open = Callable[..., House]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path, DevelopmentCA.create(tmp_path / "ca"))


@pytest.fixture
def open_house(federation: Federation) -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda **kwargs: stack.enter_context(
            opened(federation.enrol(SERVER), **kwargs)
        )


@pytest.fixture
def house(open_house: Open) -> House:
    return open_house()


@pytest.fixture
def owner(federation: Federation) -> Identity:
    return federation.enrol(OWNER)


# Who gets in


def test_all_four_kinds_of_calls_know_their_caller(
    house: House, owner: Identity
) -> None:
    me = str(OWNER).encode()
    with house.visit(owner) as stub:
        assert stub.ask("Say", b"x") == b"x" + me
        assert list(stub.receive("Count", b"ab")) == [b"a" + me, b"b" + me]
        assert stub.send("Sum", iter([b"a", b"b"])) == b"ab" + me
        assert list(stub.exchange("Chat", iter([b"a", b"b"]))) == [b"a" + me, b"b" + me]
    assert house.refusals == []


def test_a_call_without_a_certificate_does_not_get_through_tls(
    house: House, owner: Identity
) -> None:
    trust = grpc.ssl_channel_credentials(owner.ca)
    name = [("grpc.ssl_target_name_override", dns_name(SERVER))]

    with (
        grpc.secure_channel(house.server.address, trust, name) as channel,
        pytest.raises(PeerUnavailable),
        remote_errors("the server"),
    ):
        Stub(channel).ask("Say", timeout=LONG_S)


def test_a_call_without_tls_does_not_get_through(house: House) -> None:
    with (
        grpc.insecure_channel(house.server.address) as channel,
        pytest.raises(PeerUnavailable),
        remote_errors("the server"),
    ):
        Stub(channel).ask("Say", timeout=LONG_S)


def test_a_certificate_of_another_authority_does_not_get_through_tls(
    house: House, owner: Identity, tmp_path: Path
) -> None:
    """It trusts ours, holds a key, and even has the right name: but nobody signed."""
    stranger = Federation(tmp_path / "x", DevelopmentCA.create(tmp_path / "x" / "ca"))
    forged = replace(stranger.enrol(OWNER), ca=owner.ca)

    with (
        house.visit(forged) as stub,
        pytest.raises(PeerUnavailable, match="our certificate"),
        remote_errors("the server"),
    ):
        stub.ask("Say")


def test_another_federation_of_the_same_authority_is_refused_and_reported(
    house: House, federation: Federation
) -> None:
    stranger = federation.enrol(SpiffeId("evil", "clinic", DATA_OWNER))

    with house.visit(stranger) as stub:
        refused(
            "WrongFederation",
            grpc.StatusCode.UNAUTHENTICATED,
            lambda: stub.ask("Say"),
        )

    assert house.refusals == [
        Refusal("spiffe://evil/clinic/data-owner", f"/{SERVICE}/Say", "WrongFederation")
    ]


def test_an_expired_certificate_does_not_get_through_tls(
    house: House, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client says so itself; whoever circumvents that meets the server's TLS."""
    expired = federation.enrol_expired(OWNER)
    with pytest.raises(ExpiredCertificateError), house.visit(expired):
        pytest.fail("a channel opened with an expired certificate")

    monkeypatch.setattr(Identity, "check_validity", lambda _: None)
    with (
        house.visit(expired) as stub,
        pytest.raises(PeerUnavailable, match="expired"),
        remote_errors("the server"),
    ):
        stub.ask("Say")


def test_a_certificate_that_ends_on_an_open_connection_is_refused(
    house: House, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS saw it while it was good; the guard looks at every call."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(owner.expires_at.timestamp() + 1, tz)

    with house.visit(owner) as stub:
        assert stub.ask("Say")
        monkeypatch.setattr("core.rpc.identity.datetime", Later)
        refused(
            "ExpiredCertificate",
            grpc.StatusCode.UNAUTHENTICATED,
            lambda: stub.ask("Say"),
        )


def test_a_data_owner_cannot_pose_as_the_server(
    federation: Federation, owner: Identity
) -> None:
    """Its certificate is of the right authority, and names another party."""
    mallory = federation.enrol(SpiffeId("demo", "mallory", DATA_OWNER))

    with (
        opened(mallory) as fake,
        fake.visit(owner) as stub,
        pytest.raises(PeerUnavailable, match="another party"),
        remote_errors("the server"),
    ):
        stub.ask("Say")


def test_a_server_of_another_authority_is_not_trusted(
    house: House, owner: Identity, tmp_path: Path
) -> None:
    other = DevelopmentCA.create(tmp_path / "other")

    with (
        house.visit(replace(owner, ca=other.ca_pem)) as stub,
        pytest.raises(PeerUnavailable, match="another authority"),
        remote_errors("the server"),
    ):
        stub.ask("Say")


# What a role may do


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.ask("Say"),
        lambda stub: list(stub.receive("Count", b"a")),
        lambda stub: stub.send("Sum", iter([b"a"])),
        lambda stub: list(stub.exchange("Chat", iter([b"a"]))),
    ],
    ids=["Say", "Count", "Sum", "Chat"],
)
def test_a_role_that_is_not_in_the_table_is_refused_in_every_kind_of_call(
    house: House, federation: Federation, call: Callable[[Stub], object]
) -> None:
    with house.visit(federation.enrol(PROVIDER)) as stub:
        refused("NotAllowed", grpc.StatusCode.PERMISSION_DENIED, lambda: call(stub))

    (refusal,) = house.refusals
    assert (refusal.caller, refusal.kind) == (str(PROVIDER), "NotAllowed")


def test_a_method_that_is_not_in_the_table_is_refused_to_everybody(
    house: House, owner: Identity
) -> None:
    with house.visit(owner) as stub:
        refused(
            "NotAllowed",
            grpc.StatusCode.PERMISSION_DENIED,
            lambda: stub.ask("Unlisted"),
        )

    assert [r.method for r in house.refusals] == [f"/{SERVICE}/Unlisted"]


def test_a_method_that_nobody_serves_is_unimplemented(
    house: House, owner: Identity
) -> None:
    with house.visit(owner) as stub:
        refused(
            "Unimplemented",
            grpc.StatusCode.UNIMPLEMENTED,
            lambda: stub.ask("Nonsense"),
        )


def test_a_caller_may_be_turned_away_on_an_open_connection(
    open_house: Open, owner: Identity
) -> None:
    """Revocation: the connection stays, and so does the certificate."""
    revoked = set[SpiffeId]()

    def admit(caller: SpiffeId) -> None:
        if caller in revoked:
            raise NotAllowedError(f"{caller} is revoked")

    house = open_house(admit=admit)
    with house.visit(owner) as stub:
        assert stub.ask("Say")
        revoked.add(OWNER)
        refused(
            "NotAllowed", grpc.StatusCode.PERMISSION_DENIED, lambda: stub.ask("Say")
        )

    assert [r.caller for r in house.refusals] == [str(OWNER)]


def test_what_the_service_itself_refuses_is_reported_too(
    house: House, owner: Identity
) -> None:
    house.echo.error = NotAllowedError("the key is another owner's")

    with house.visit(owner) as stub:
        refused(
            "NotAllowed", grpc.StatusCode.PERMISSION_DENIED, lambda: stub.ask("Fail")
        )

    assert house.refusals == [Refusal(str(OWNER), f"/{SERVICE}/Fail", "NotAllowed")]


@pytest.mark.parametrize("misdeed", ["raises", "hangs"])
def test_a_refusal_does_not_depend_on_its_report(
    open_house: Open,
    federation: Federation,
    misdeed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("core.rpc.refusals._PATIENCE_S", 0.05)
    free = threading.Event()

    def report(_: Refusal) -> None:
        if misdeed == "raises":
            raise StorageError(CONFIDED)
        free.wait()

    house = open_house(on_refusal=report)
    with house.visit(federation.enrol(PROVIDER)) as stub:
        try:
            for _ in range(5):
                refused(
                    "NotAllowed",
                    grpc.StatusCode.PERMISSION_DENIED,
                    lambda: stub.ask("Say"),
                )
        finally:
            free.set()


# What a caller learns


def fail(stub: Stub, method: str) -> object:
    """Call the method that fails at once, or the one that fails in mid-stream."""
    return stub.ask(method) if method == "Fail" else list(stub.receive(method, b"a"))


@pytest.mark.parametrize("method", ["Fail", "FailLate"])
def test_the_text_of_an_error_does_not_reach_the_caller(
    house: House,
    owner: Identity,
    method: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house.visit(owner) as stub, pytest.raises(grpc.RpcError) as caught:
        fail(stub, method)

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "0x1234" not in f"{caught.value.details()}{caught.value!r}"
    assert "0x1234" in caplog.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound(CONFIDED), grpc.StatusCode.NOT_FOUND),
        (KeyRefusedError(CONFIDED), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
@pytest.mark.parametrize("method", ["Fail", "FailLate"])
def test_our_errors_arrive_as_kind_and_hint(
    house: House,
    owner: Identity,
    error: NotFound | KeyRefusedError,
    status: grpc.StatusCode,
    method: str,
) -> None:
    house.echo.error = error

    with house.visit(owner) as stub:
        came = refused(
            error.kind,
            status,
            lambda: fail(stub, method),
        )

    assert error.hint == came.hint
    assert "0x1234" not in str(came)
    # What the state of things does not allow is a refusal; what is not there is none.
    expected = [error.kind] if isinstance(error, KeyRefusedError) else []
    assert expected == [refusal.kind for refusal in house.refusals]


def test_a_party_that_cannot_serve_now_says_why_and_counts_as_unavailable(
    house: House, owner: Identity
) -> None:
    house.echo.error = StorageError(CONFIDED)

    with (
        house.visit(owner) as stub,
        pytest.raises(PeerUnavailable) as caught,
        remote_errors("the server"),
    ):
        stub.ask("Fail")

    assert isinstance(caught.value, RemoteUnavailableError)
    assert caught.value.kind == "Storage"
    assert caught.value.hint == StorageError.hint


def test_a_peer_s_refusal_is_handed_on_as_it_is(house: House, owner: Identity) -> None:
    """A party that asked another one on its caller's behalf adds nothing."""
    house.echo.error = RemoteError(
        "KeyRefused", "ask the operator", grpc.StatusCode.FAILED_PRECONDITION
    )

    with house.visit(owner) as stub:
        came = refused(
            "KeyRefused",
            grpc.StatusCode.FAILED_PRECONDITION,
            lambda: stub.ask("Fail"),
        )

    assert came.hint == "ask the operator"


# Bounds


def test_a_call_has_a_deadline_even_if_it_names_none(
    house: House, owner: Identity
) -> None:
    with (
        house.visit(owner, deadline_s=0.3) as stub,
        pytest.raises(PeerUnavailable, match="in time"),
        remote_errors("the server"),
    ):
        stub.ask("Wait")

    assert not house.echo.left.is_set(), "it was answered"
    house.echo.release.set()


def test_a_call_may_name_a_longer_deadline(house: House, owner: Identity) -> None:
    with house.visit(owner, deadline_s=0.1) as stub:
        threading.Timer(0.5, house.echo.release.set).start()
        assert stub.ask("Wait", b"x", timeout=LONG_S) == b"x"


@pytest.mark.parametrize(
    "call",
    [
        lambda stub, requests: stub.send("Sum", requests),
        lambda stub, requests: list(stub.exchange("Chat", requests)),
    ],
    ids=["Sum", "Chat"],
)
def test_a_stream_has_a_deadline_too(
    house: House, owner: Identity, call: Callable[[Stub, Iterator[bytes]], object]
) -> None:
    with (
        house.visit(owner, deadline_s=0.3) as stub,
        endless() as requests,
        pytest.raises(PeerUnavailable, match="in time"),
        remote_errors("the server"),
    ):
        call(stub, requests)


def test_a_caller_who_sends_nothing_cannot_hold_a_worker(
    open_house: Open, owner: Identity
) -> None:
    """The deadline is the caller's choice, so the server has a bound of its own."""
    house = open_house(settings=replace(SETTINGS, workers=1, max_stream_s=0.3))

    with house.visit(owner) as stub:
        with endless() as requests:
            refused(
                "Cancelled",
                grpc.StatusCode.CANCELLED,
                lambda: stub.send("Sum", requests),
            )
        assert house.echo.left.wait(LONG_S)
        assert stub.ask("Say")


def test_idle_streams_leave_workers_for_short_calls(
    house: House, owner: Identity
) -> None:
    """Of four workers one may be held by a stream; the others stay free for calls."""
    with house.visit(owner) as stub:
        with endless() as requests:
            answers = stub.exchange("Chat", chain([b"a"], requests))
            assert next(answers)
            refused(
                "TooManyStreams",
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                lambda: stub.send("Sum", iter([b"a"])),
            )
            running = [stub.start("Wait", b"x") for _ in range(SETTINGS.workers - 2)]
            assert stub.ask("Say")
            house.echo.release.set()
            assert [b"x"] * len(running) == [call.result(LONG_S) for call in running]
        assert list(answers) == []
        assert stub.send("Sum", iter([b"a"]))


def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(
    house: House, owner: Identity
) -> None:
    with house.visit(owner) as stub:
        came = refused(
            "TooLarge",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            lambda: stub.ask("Wait", bytes(SETTINGS.max_message_bytes + 1)),
        )
        assert not house.echo.entered.is_set()
        assert stub.ask("Say", b"x")

    assert "fewer" in came.hint


def test_what_is_no_message_is_refused_in_every_kind_of_call(
    house: House, owner: Identity
) -> None:
    """Between good ones of a stream too; gRPC's own answer would be an `Internal`."""
    with house.visit(owner) as stub:
        raw = Raw(stub.channel)
        for call in (
            lambda: raw.unary_unary("Say")(NO_MESSAGE),
            lambda: list(raw.unary_stream("Count")(NO_MESSAGE)),
            lambda: raw.stream_unary("Sum")(iter([b"", NO_MESSAGE, b""])),
            lambda: list(raw.stream_stream("Chat")(iter([b"", NO_MESSAGE]))),
        ):
            refused("UnreadableMessage", grpc.StatusCode.INVALID_ARGUMENT, call)
        assert stub.ask("Say", b"x")


def test_who_may_not_call_is_not_told_that_it_was_no_message(
    federation: Federation, house: House
) -> None:
    with house.visit(federation.enrol(PROVIDER)) as stub:
        refused(
            "NotAllowed",
            grpc.StatusCode.PERMISSION_DENIED,
            lambda: Raw(stub.channel).unary_unary("Say")(NO_MESSAGE),
        )


def test_nothing_of_what_was_no_message_stays_behind(
    house: House, owner: Identity
) -> None:
    """gRPC kept each such call for ever: any caller could fill a server's memory."""
    before = _calls_kept()

    with house.visit(owner) as stub:
        for _ in range(50):
            with pytest.raises(RemoteError), remote_errors("the server"):
                Raw(stub.channel).unary_unary("Say")(NO_MESSAGE)
        assert stub.ask("Say", b"x")

    # The last ones may be on their way out.
    assert any(_calls_kept() <= before + 5 for _ in range(100))


def _calls_kept() -> int:
    """How many calls of gRPC's servers in this process are still held by something."""
    time.sleep(0.05)
    gc.collect()
    return sum(type(each) is _RPCState for each in gc.get_objects())


@pytest.mark.parametrize(("server_s", "channel_ms"), [(0.2, 25_000), (60.0, 1000)])
def test_a_connection_that_nobody_uses_is_closed_and_opened_again(
    open_house: Open,
    owner: Identity,
    monkeypatch: pytest.MonkeyPatch,
    server_s: float,
    channel_ms: int,
) -> None:
    """gRPC keeps room on each for the largest message that came on it."""
    house = open_house(settings=replace(SETTINGS, max_connection_idle_s=server_s))
    monkeypatch.setattr("core.rpc.channel._IDLE_MS", channel_ms)
    seen: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()

    with house.visit(owner) as stub:
        assert stub.ask("Say", b"x")
        stub.channel.subscribe(seen.put)
        # All of them, up to the first that says nobody uses it; else `Empty`.
        states = [*iter(lambda: seen.get(timeout=10), grpc.ChannelConnectivity.IDLE)]
        assert grpc.ChannelConnectivity.READY in states
        assert stub.ask("Say", b"x")


def test_an_answer_may_be_larger_than_any_request(
    house: House, owner: Identity
) -> None:
    """A server that starts is told of all keys at once."""
    largest = bytes(SETTINGS.max_message_bytes - 8)

    with house.visit(owner) as stub:
        assert len(stub.ask("Say", largest)) > SETTINGS.max_message_bytes


def test_a_client_does_not_send_more_than_its_own_limit(
    house: House, owner: Identity
) -> None:
    with house.visit(owner, max_message_bytes=1000) as stub:
        refused(
            "TooLarge",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            lambda: stub.ask("Say", bytes(2000)),
        )


def test_one_call_too_many_is_refused(open_house: Open, owner: Identity) -> None:
    house = open_house(settings=replace(SETTINGS, max_concurrent_calls=1))

    with house.visit(owner) as stub:
        running = stub.start("Wait", b"x")
        assert house.echo.entered.wait(LONG_S)
        refused(
            "Exhausted", grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: stub.ask("Say")
        )
        house.echo.release.set()
        assert running.result(LONG_S) == b"x"


def test_a_caller_who_gave_up_while_it_waited_costs_no_work(
    open_house: Open, owner: Identity
) -> None:
    house = open_house(settings=replace(SETTINGS, workers=1))
    house.echo.away = 2

    with house.visit(owner) as stub:
        running = stub.start("Wait", b"x")
        assert house.echo.entered.wait(LONG_S)
        waiting = stub.start("Say", b"x")
        house.echo.wait_for_calls(2)
        waiting.cancel()
        house.echo.wait_for_calls(1)
        house.echo.release.set()
        assert running.result(LONG_S) == b"x"
        # The one worker takes calls in order: this one is served after the other.
        with pytest.raises(PeerUnavailable), remote_errors("the server"):
            stub.ask("Say")

    assert house.echo.away == 1

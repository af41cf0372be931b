"""A channel goes over to a fresh certificate, and no call notices."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import CorruptFileError
from core.rpc import renewal
from core.rpc.renewal import renewing_channel


class World:
    """Identities that a test hands out, and the channels that were opened."""

    def __init__(self) -> None:
        self.now = datetime(2027, 1, 1, tzinfo=UTC)
        self.certificate = b"first"
        self.broken = False
        self.events: list[str] = []

    def load(self) -> Any:
        if self.broken:
            raise CorruptFileError("half written")
        due = datetime(2027, 1, 2, tzinfo=UTC)
        if self.certificate != b"first":
            due += timedelta(days=len(self.certificate))
        return SimpleNamespace(certificate=self.certificate, renew_at=due)

    def connect(self, identity: Any, stack: ExitStack) -> Any:
        name = identity.certificate.decode()
        self.events.append(f"open {name}")
        stack.callback(self.events.append, f"close {name}")
        method = lambda *_, **__: lambda *_, **__: name  # noqa: E731
        return SimpleNamespace(unary_unary=method)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(renewal, "_LOOK_AGAIN_S", 0.0)
    return World()


@contextmanager
def method(world: World) -> Iterator[Any]:
    with renewing_channel(world.load, world.connect, lambda: world.now) as channel:
        yield channel.unary_unary("/a/B")


def test_calls_go_over_the_newest_certificate_and_none_is_cut_off(
    world: World,
) -> None:
    with method(world) as call:
        told = [call()]
        world.certificate = b"second"
        told.append(call())
        world.now += timedelta(days=1)
        told.append(call())
        assert world.events == ["open first", "open second"]

    assert told == ["first", "first", "second"]
    assert {"close first", "close second"} == set(world.events[2:])


def test_an_unrenewed_or_unreadable_certificate_is_used_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with method(world) as call:
        world.now += timedelta(days=1)
        assert call() == "first"
        world.broken = True
        assert call() == "first"
        world.broken, world.certificate = False, b"second"
        assert call() == "second"

    assert world.events[:2] == ["open first", "open second"]
    assert "cannot be read" in caplog.text


def test_only_the_newest_and_the_one_before_stay_open(world: World) -> None:
    with method(world) as call:
        for name in (b"second", b"thirdly"):
            world.certificate = name
            world.now += timedelta(days=20)
            call()
        assert world.events == [
            "open first",
            "open second",
            "open thirdly",
            "close first",
        ]

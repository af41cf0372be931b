"""Keys and models change while the owners ask without pause."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.federation import (
    Promote,
    Release,
    Resume,
    Revoke,
    RollBack,
    Rotate,
    RotateAll,
    Suspend,
    TrafficEvent,
    UnderTraffic,
    Wait,
)
from orchestrator.registry.store import CANDIDATE, CHAMPION
from orchestrator.simulation.crowd import asking
from orchestrator.simulation.rotation import (
    PROMOTE,
    RELEASE,
    RESUME,
    REVOKE,
    ROLL_BACK,
    ROTATE,
    SUSPEND,
)
from orchestrator.simulation.scene import Scene
from orchestrator.simulation.setup import Stage, agree, release


def under_traffic(stage: Stage, event: UnderTraffic) -> None:
    """Let owners ask without pause while the event's own events happen, in order."""
    owners = event.owners or stage.owners
    batch = event.batch or stage.workspace.federation.simulation.batch
    with stage.operator() as connected, asking(stage, owners, batch) as crowd:
        scene = Scene(stage, connected, crowd)
        for each in event.events:
            _PLAYERS[type(each)](scene, each)
            stage.tell_news()
    for owner, made in crowd.made.items():
        told = f"made {made:,} requests meanwhile"
        stage.narrator.says("data-owner", owner, told)


def _rotate(scene: Scene, event: Rotate) -> None:
    told = f"rotates the key of {event.owner} while it asks"
    scene.order(ROTATE, event.owner, lambda: scene.rotate(event.owner), told)


def _rotate_all(scene: Scene, _: RotateAll) -> None:
    scene.wait_for_states("rotated")
    told = f"rotates every key while {len(scene.crowd.made)} owners ask"
    scene.order(ROTATE, "", scene.rotate, told)


def _suspend(scene: Scene, event: Suspend) -> None:
    def call() -> int:
        owner = str(scene.stage.workspace.owner(event.owner))
        scene.connected.suspend_key(owner, scene.stage.model.name, event.reason)
        return 0

    told = f"suspends the key of {event.owner}: {event.reason}"
    scene.order(SUSPEND, event.owner, call, told)


def _resume(scene: Scene, event: Resume) -> None:
    def call() -> int:
        owner = str(scene.stage.workspace.owner(event.owner))
        scene.connected.resume_key(owner, scene.stage.model.name)
        return 0

    scene.order(RESUME, event.owner, call, f"resumes the key of {event.owner}")


def _revoke(scene: Scene, event: Revoke) -> None:
    def call() -> int:
        owner = str(scene.stage.workspace.owner(event.owner))
        model = scene.stage.model.name
        answer = scene.connected.revoke_key(owner, model, event.reason)
        agree(scene.stage, answer.approval_id)
        return 0

    told = f"revokes the key of {event.owner}: {event.reason}"
    scene.order(REVOKE, event.owner, call, told)


def _release(scene: Scene, _: Release) -> None:
    scene.order_model(RELEASE, lambda: release(scene.stage, CANDIDATE))


def _promote(scene: Scene, _: Promote) -> None:
    tried = max(scene.stage.releases)
    scene.order_model(PROMOTE, lambda: _alias(scene, CHAMPION, tried, tried))


def _roll_back(scene: Scene, _: RollBack) -> None:
    tried = max(scene.stage.releases)
    to = scene.champion
    scene.order_model(ROLL_BACK, lambda: _alias(scene, CANDIDATE, to, tried))


def _alias(scene: Scene, name: str, version: int, tried: int) -> int:
    """Let an alias name a version; returns the version that is not tried any more."""
    scene.connected.set_alias(scene.stage.model.name, name, version)
    return tried


def _wait(scene: Scene, event: Wait) -> None:
    end = time.monotonic() + event.seconds
    scene.crowd.wait(lambda: time.monotonic() >= end, f"{event.seconds} s")
    if event.until == "issued":
        scene.wait_until_issued()
    elif event.until is not None:
        scene.wait_for_states(event.until)
    if event.tried:
        scene.wait_until_tried(event.tried)
    enough = (scene.before or 0) + event.requests
    scene.crowd.wait(
        lambda: scene.crowd.made.total() >= enough, f"{event.requests} requests"
    )


_PLAYERS: Final[Mapping[type[TrafficEvent], Callable[[Scene, Any], None]]] = {
    Rotate: _rotate,
    RotateAll: _rotate_all,
    Suspend: _suspend,
    Resume: _resume,
    Revoke: _revoke,
    Release: _release,
    Promote: _promote,
    RollBack: _roll_back,
    Wait: _wait,
}

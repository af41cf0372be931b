"""Keys change while their owners ask without pause."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.errors import Unavailable
from core.rpc.identity import OPERATOR
from orchestrator.federation import (
    Resume,
    Revoke,
    Rotate,
    RotateAll,
    Suspend,
    TrafficEvent,
    UnderTraffic,
    Wait,
)
from orchestrator.operator import Operator
from orchestrator.registry.lifecycle import JobState, KeyState
from orchestrator.simulation.crowd import Crowd, TooSlow, asking
from orchestrator.simulation.rotation import (
    RESUME,
    REVOKE,
    ROTATE,
    SUSPEND,
    Order,
)
from orchestrator.simulation.setup import Stage, agree

# What is left of a change of keys: the states that no version may be in any more.
_LIVE: Final = frozenset({KeyState.PRE_ACTIVE})
_ROTATED: Final = _LIVE | {KeyState.RETIRING}
_UNDER_WAY: Final = {
    "live": _LIVE,
    "rotated": _ROTATED,
    "destroyed": _ROTATED | {KeyState.DESTROY_SCHEDULED},
}


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
        told = f"made {made:,} requests while keys changed"
        stage.narrator.says("data-owner", owner, told)


@dataclass
class Scene:
    """What the events happen to."""

    stage: Stage
    connected: Operator
    crowd: Crowd
    # How many requests had been made when the first key changed.
    before: int | None = None

    def order(
        self, action: str, owner: str, call: Callable[[], int], told: str
    ) -> None:
        """Have the operator order something, and note when and how much."""
        if self.before is None:
            self.before = self.crowd.made.total()
        called_ms = _now_ms()
        rotations = call()
        order = Order(action, owner, called_ms, _now_ms(), rotations)
        self.stage.orders.append(order)
        self.stage.narrator.says(OPERATOR, self.stage.operator_name, told)

    def wait_for_states(self, until: str) -> None:
        """Wait until no key version is in the middle of what `until` names."""
        left: list[str] = []

        def done() -> bool:
            left[:] = [
                f"{k.key_id} v{k.version} {k.state}"
                for k in self.connected.key_versions()
                if k.state in _UNDER_WAY[until]
            ]
            return not left

        try:
            self.crowd.wait(done, until)
        except TooSlow as error:
            raise TooSlow(f"{error}: {', '.join(left + self._stuck())}") from error

    def rotate(self, owner: str = "") -> int:
        """Rotate one owner's key, or all; returns how many are rotated."""
        policies = self.stage.workspace.federation.policies
        spiffe = str(self.stage.workspace.owner(owner)) if owner else ""
        answer = self.connected.rotate_keys(
            self.stage.model.name, policies.rotation_overlap_s, owner=spiffe
        )
        agree(self.stage, answer.approval_id)
        left_out = {r.owner: r.left_out for r in answer.rotations if r.left_out}
        for other in self._good_standing():
            if why := left_out.get(str(self.stage.workspace.owner(other))):
                raise Unavailable(f"the key of {other} is not rotated: {why}")
        return len(answer.rotations) - len(left_out)

    def _good_standing(self) -> list[str]:
        last = {order.owner: order.action for order in self.stage.orders}
        return [o for o in self.stage.owners if last.get(o) not in {SUSPEND, REVOKE}]

    def _stuck(self) -> list[str]:
        return [
            f"job {job.id} ({job.kind} {job.subject}): {job.why}"
            for job in self.connected.jobs(open_only=True)
            if job.state == JobState.NEEDS_OPERATOR
        ]


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


def _wait(scene: Scene, event: Wait) -> None:
    end = time.monotonic() + event.seconds
    scene.crowd.wait(lambda: time.monotonic() >= end, f"{event.seconds} s")
    if event.until is not None:
        scene.wait_for_states(event.until)
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
    Wait: _wait,
}


def _now_ms() -> float:
    """By the clock on the wall, which the owners' lines and the log go by too."""
    return round(time.time() * 1000, 2)

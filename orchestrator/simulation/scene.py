"""What events happen to while owners ask: what is ordered, noted, and waited for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from core.errors import Unavailable
from core.rpc.identity import OPERATOR
from orchestrator.operator import Operator
from orchestrator.registry.lifecycle import IssuedState, JobState, KeyState
from orchestrator.simulation.crowd import Crowd, TooSlow
from orchestrator.simulation.rotation import PROMOTE, REVOKE, SUSPEND, Order
from orchestrator.simulation.setup import Stage, agree

# What is left of a change of keys: the states that no version may be in any more.
_LIVE: Final = frozenset({KeyState.PRE_ACTIVE})
_ROTATED: Final = _LIVE | {KeyState.RETIRING}
_UNDER_WAY: Final = {
    "live": _LIVE,
    "rotated": _ROTATED,
    "destroyed": _ROTATED | {KeyState.DESTROY_SCHEDULED},
}


@dataclass
class Scene:
    """What the events happen to."""

    stage: Stage
    connected: Operator
    crowd: Crowd
    # How many requests had been made when the first order was given.
    before: int | None = None

    def order(
        self, action: str, owner: str, call: Callable[[], int], told: str
    ) -> None:
        """Have the operator order something, and note when and how much."""
        self._begin()
        called_ms = _now_ms()
        rotations = call()
        order = Order(action, owner, called_ms, _now_ms(), rotations)
        self.stage.orders.append(order)
        self.stage.narrator.says(OPERATOR, self.stage.operator_name, told)

    def order_model(self, action: str, call: Callable[[], int]) -> None:
        """Note an order about a version of the model, which `call` returns.

        What it did is told by the audit log.
        """
        self._begin()
        called_ms = _now_ms()
        version = call()
        order = Order(action, "", called_ms, _now_ms(), version=version)
        self.stage.orders.append(order)

    @property
    def champion(self) -> int:
        """The version of the model that was promoted last; else the first one."""
        first, *_ = self.stage.releases
        promoted = [o.version for o in self.stage.orders if o.action == PROMOTE]
        return promoted[-1] if promoted else first

    def wait_for_states(self, until: str) -> None:
        """Wait until no key version is in the middle of what `until` names."""

        def left() -> list[str]:
            return [
                f"{k.key_id} v{k.version} {k.state}"
                for k in self.connected.key_versions()
                if k.state in _UNDER_WAY[until]
            ]

        self._wait_until_none(left, until)

    def wait_until_issued(self) -> None:
        """Wait until the newest version is live under every key in use."""
        newest = max(self.stage.releases)

        def left() -> list[str]:
            live = {
                (each.key_id, each.key_version)
                for each in self.connected.issued()
                if each.model_version == newest and each.state == IssuedState.LIVE
            }
            return [
                f"{k.key_id} v{k.version}"
                for k in self.connected.key_versions()
                if k.state == KeyState.ACTIVE and (k.key_id, k.version) not in live
            ]

        self._wait_until_none(left, f"version {newest} issued")

    def wait_until_tried(self, count: int) -> None:
        """Wait until the newest version has given every owner so many answers."""
        newest = max(self.stage.releases)

        def done() -> bool:
            answered = self.crowd.answered
            given = [answered.get(o, {}).get(str(newest), 0) for o in self.crowd.made]
            return min(given) >= count

        self.crowd.wait(done, f"{count} answers of version {newest} each")

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

    def _wait_until_none(self, left: Callable[[], list[str]], what: str) -> None:
        last: list[str] = []

        def done() -> bool:
            last[:] = left()
            return not last

        try:
            self.crowd.wait(done, what)
        except TooSlow as error:
            raise TooSlow(f"{error}: {', '.join(last + self._stuck())}") from error

    def _begin(self) -> None:
        if self.before is None:
            self.before = self.crowd.made.total()

    def _good_standing(self) -> list[str]:
        last = {order.owner: order.action for order in self.stage.orders}
        return [o for o in self.stage.owners if last.get(o) not in {SUSPEND, REVOKE}]

    def _stuck(self) -> list[str]:
        return [
            f"job {job.id} ({job.kind} {job.subject}): {job.why}"
            for job in self.connected.jobs(open_only=True)
            if job.state == JobState.NEEDS_OPERATOR
        ]


def _now_ms() -> float:
    """By the clock on the wall, which the owners' lines and the log go by too."""
    return round(time.time() * 1000, 2)

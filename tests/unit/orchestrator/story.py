"""A story of keys and requests, told by hand: lines of owners, orders, log records."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.simulation.requests import Released, Request
from orchestrator.simulation.rotation import Order, Traffic

CLASSES = 3
IMAGES = 6


def plain_logits(owner: str, model: int = 1) -> np.ndarray:
    """Every image of every owner has an answer of its own, from each model version."""
    seed = sum(map(ord, owner)) + 1000 * model
    drawn = np.random.default_rng(seed).normal(size=(IMAGES, CLASSES))
    return drawn.astype(np.float32)


def spiffe(owner: str) -> str:
    return f"spiffe://test.keymixer/{owner}/data-owner"


@dataclass
class Story:
    """Times are milliseconds; records get their index in the order they are told."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, list[Request]] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)

    def record(self, at: int, kind: str, owner: str, version: int, **facts: Any) -> int:
        """Append a record about a key version, and return its index."""
        subject = {
            "owner": spiffe(owner),
            "key_id": f"{owner}.cells",
            "key_version": version,
            **facts,
        }
        index = len(self.bodies)
        body = {"index": index, "time_ms": at, "kind": kind, "actor": spiffe("x")}
        self.bodies.append({**body, "subject": subject})
        return index

    def state(self, at: int, owner: str, version: int, state: str, **more: Any) -> None:
        """Let a key version be in a state from now on."""
        self.record(at, f"key.{state}", owner, version, state=state, **more)

    def answer(
        self,
        at: int,
        owner: str,
        version: int,
        *,
        first: int = 0,
        model: int = 1,
        **changes: Any,
    ) -> None:
        """Let an owner's request of two images be answered, 40 ms after it began."""
        number = f"{owner}-{len(self.requests.get(owner, []))}"
        named = {"request_id": number, "model_version": model}
        recorded = self.record(at - 5, "inference", owner, version, **named)
        facts: dict[str, Any] = {
            "outcome": "answered",
            "key_version": version,
            "model_version": model,
            "released": (Released(recorded, number, version, model),),
            "logits": plain_logits(owner, model)[first : first + 2],
        }
        self._ask(at, owner, first, **facts | changes)

    def refusal(self, at: int, owner: str, **changes: Any) -> None:
        """Let an owner's request be refused, 40 ms after it began."""
        facts: dict[str, Any] = {"outcome": "refused", "kind": "KeyRefused"}
        self._ask(at, owner, 0, **facts | changes)

    def order(
        self,
        at: float,
        action: str,
        owner: str = "",
        rotations: int = 0,
        version: int = 0,
    ) -> None:
        """Let the operator order something; the answer comes 10 ms later."""
        self.orders.append(Order(action, owner, at, at + 10, rotations, version))

    def told(self) -> Traffic:
        """The witnesses' evidence."""
        models = {1, *(order.version for order in self.orders if order.version)}
        plain = {
            model: {owner: plain_logits(owner, model) for owner in self.requests}
            for model in models
        }
        return Traffic(self.requests, self.orders, plain, self.bodies)

    def _ask(self, at: int, owner: str, first: int, **changes: Any) -> None:
        facts: dict[str, Any] = {
            "started_ms": float(at - 40),
            "ended_ms": float(at),
            "kind": "",
            "sent": 1,
            "first": first,
            "images": 2,
            "key_version": 0,
            "model_version": 0,
            "released": (),
            "logits": np.zeros((0,), np.float32),
        }
        made = Request(**facts | changes)
        self.requests.setdefault(owner, []).append(made)


def good_story() -> Story:
    """Two owners ask every 100 ms; both keys are rotated once, then ben is revoked.

    The rotation is ordered at 1000; version 2 is live at 1500, and version 1 is refused
    from 2000 and destroyed at 2500. Ben's revocation is acknowledged at 3010.
    """
    story = Story()
    for owner in ("anna", "ben"):
        story.state(-900, owner, 1, "pre_active")
        story.state(-800, owner, 1, "active")
    story.order(1000, "rotate", rotations=2)
    story.order(3000, "revoke", "ben")
    for at in range(100, 4001, 100):
        for owner in ("anna", "ben"):
            _turn(story, at, owner)
    return story


_CHANGES: dict[int, list[tuple[int, str]]] = {
    1100: [(2, "pre_active")],
    1500: [(2, "active"), (1, "retiring")],
    2000: [(1, "destroy_scheduled")],
    2500: [(1, "destroyed")],
}


def _turn(story: Story, at: int, owner: str) -> None:
    for version, state in _CHANGES.get(at, []):
        more = {"retire_at_ms": 2000} if state == "retiring" else {}
        story.state(at, owner, version, state, **more)
    if owner == "ben" and at == 3000:
        story.state(at, owner, 2, "destroy_scheduled")
    if owner == "ben" and at >= 3000:
        story.refusal(at + 50, owner)
    else:
        story.answer(at + 50, owner, 1 if at < 1500 else 2, first=at // 100 % 4)

"""The reconciler: looks at the rows and does what follows from them, again and again.

The rows are the only state. Each rule finds the rows it applies to, makes at most one
remote call, and then writes what came of it in one transaction, with its audit record.

Rules:
1. draw: a `pre_active` key version without commitment is drawn by the key holder.
2. prepare: for a confirmed version that is `pre_active` or `active`, the model's
   champion (else its newest version with the key's patch size and channels) is
   transformed: an issued model is `pending`.
3. send: a `pending` issued model is sent to the inference server and becomes `live`. If
   its key version was `pre_active`, in the same transaction it becomes `active` and
   primary, and the former primary `retiring` until its overlap ends.
4. expire: a `retiring` version whose overlap has ended becomes `destroy_scheduled`.
5. delete: each issued model of a `destroy_scheduled` version is deleted at the
   inference server and becomes `gone`.
6. destroy: a `destroy_scheduled` version whose issued models are all `gone` is
   destroyed by the key holder and becomes `destroyed`.

Invariants:
* No remote call is made inside a transaction, and each may be repeated.
* The transaction after a call reads the row again and does nothing if it has moved on
  (a key was revoked meanwhile): every change happens, and is recorded, exactly once.
* A peer that fails holds up only the row concerned; it is asked again, ever later.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy.orm import Session

from core.errors import KeymixerError
from orchestrator.registry.store import Registry
from orchestrator.workflows import steps
from orchestrator.workflows.peers import (
    InferenceServer,
    IssueId,
    KeyHolder,
    KeyToDraw,
)
from orchestrator.workflows.steps import KeyName

log = logging.getLogger(__name__)

POLL_S = 0.1

_Row = TypeVar("_Row")


@dataclass(slots=True)
class Patience:
    """How long to wait after a failure: twice as long each time, up to a bound."""

    first_s: float = 0.2
    longest_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _waits: dict[object, tuple[float, float]] = field(default_factory=dict)

    def ready(self, subject: object) -> bool:
        """May it be tried now?"""
        until, _ = self._waits.get(subject, (0.0, 0.0))
        return self.clock() >= until

    def failed(self, subject: object) -> float:
        """Put it off; returns by how many seconds."""
        _, last_s = self._waits.get(subject, (0.0, 0.0))
        pause_s = min(2 * last_s or self.first_s, self.longest_s)
        self._waits[subject] = (self.clock() + pause_s, pause_s)
        return pause_s

    def succeeded(self, subject: object) -> None:
        """Forget its failures."""
        self._waits.pop(subject, None)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The rules, on one registry and its two peers."""

    registry: Registry
    key_holder: KeyHolder
    inference_server: InferenceServer
    # The key holder's SPIFFE ID: who must have signed what it prepares.
    key_holder_id: str
    patience: Patience = field(default_factory=Patience)

    def run_once(self) -> bool:
        """Apply every rule once to each of its rows; was anything done?"""
        results = [
            self._apply("draw", steps.keys_to_draw, self._draw),
            self._apply("prepare", steps.issues_to_prepare, self._prepare),
            self._apply("send", steps.issues_to_send, self._send),
            self._apply("expire", self._keys_to_expire, self._expire),
            self._apply("delete", steps.issues_to_delete, self._delete),
            self._apply("destroy", steps.keys_to_destroy, self._destroy),
        ]
        return any(results)

    def run_until(self, stop: threading.Event) -> None:
        """Apply the rules until told to stop; no failure ends it."""
        while not stop.is_set():
            try:
                busy = self.run_once()
            except Exception:
                log.exception("reconciler failed")
                busy = False
            if not busy:
                stop.wait(POLL_S)

    def _apply(
        self,
        rule: str,
        find: Callable[[Session], Sequence[_Row]],
        act: Callable[[_Row], None],
    ) -> bool:
        with self.registry.database.reading() as session:
            rows = find(session)
        ready = [row for row in rows if self.patience.ready((rule, row))]
        outcomes = [self._attempt(rule, row, act) for row in ready]
        return any(outcomes)

    def _attempt(self, rule: str, row: _Row, act: Callable[[_Row], None]) -> bool:
        try:
            act(row)
        except Exception as error:  # noqa: BLE001 -- it is logged, the row put off
            self._put_off(rule, row, error)
            return False
        self.patience.succeeded((rule, row))
        log.info("step done", extra={"rule": rule, "row": str(row)})
        return True

    def _put_off(self, rule: str, row: object, error: Exception) -> None:
        pause_s = self.patience.failed((rule, row))
        facts = {"rule": rule, "row": str(row), "again_in_s": pause_s}
        if isinstance(error, KeymixerError):
            facts |= {"kind": error.kind, "why": str(error)}
            log.warning("step failed", extra=facts)
        else:
            log.error("step failed for no known reason", extra=facts, exc_info=error)

    def _draw(self, key: KeyToDraw) -> None:
        drawn = self.key_holder.draw(key)
        with self.registry.own_change() as change:
            steps.record_drawn(change, key, drawn)

    def _prepare(self, issue: IssueId) -> None:
        prepared = self.key_holder.prepare(issue)
        with self.registry.own_change() as change:
            steps.record_prepared(change, issue, prepared, self.key_holder_id)

    def _send(self, issue: IssueId) -> None:
        self.key_holder.send(issue)
        with self.registry.own_change() as change:
            steps.record_live(change, issue)

    def _keys_to_expire(self, session: Session) -> list[KeyName]:
        return steps.keys_to_expire(session, self.registry.clock())

    def _expire(self, key: KeyName) -> None:
        with self.registry.own_change() as change:
            steps.record_expired(change, key)

    def _delete(self, issue: IssueId) -> None:
        self.inference_server.delete(issue)
        with self.registry.own_change() as change:
            steps.record_gone(change, issue)

    def _destroy(self, key: KeyName) -> None:
        self.key_holder.destroy(key.key_id, key.version)
        with self.registry.own_change() as change:
            steps.record_destroyed(change, key)


@contextmanager
def running(reconciler: Reconciler) -> Iterator[None]:
    """Run the reconciler in a thread of its own until the context is left."""
    stop = threading.Event()
    thread = threading.Thread(
        target=reconciler.run_until, args=(stop,), name="reconciler", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

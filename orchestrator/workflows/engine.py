"""The engine: leases jobs that are due, and has workers do their next steps.

Several engines may work on one database: a job is leased to one of them at a time, and
a lease that runs out is taken over. Nothing is kept here that a restart would miss.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final

from grpc import StatusCode

from core.errors import KeymixerError, NotFound, Unavailable
from core.rpc.errors import RemoteError
from orchestrator.federation import Policies
from orchestrator.registry.models import Job
from orchestrator.registry.store import Registry
from orchestrator.settings import DEFAULT_LEASE_S, DEFAULT_WORKERS
from orchestrator.workflows import approvals, jobs, schedule
from orchestrator.workflows.jobs import Lease, LeaseLost, Step
from orchestrator.workflows.peers import Peers
from orchestrator.workflows.procedures import STEPS
from orchestrator.workflows.work import Work

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
# How often the policies are looked at, and how many times longer than that takes.
SCHEDULE_S: Final = 1.0
SCHEDULE_SHARE: Final = 20.0
# A job put off waits so long first, then twice as long each time, up to a bound.
FIRST_PAUSE_MS: Final = 200
LONGEST_PAUSE_MS: Final = 30_000
# A bug may be a passing one; three times it is not.
TRIES_OF_A_BUG: Final = 3

# What these answer may still be on its way: an upload by the provider.
_AWAIT_UPLOADS: Final = frozenset({Step.PREPARE, Step.SEND})
_PASSING: Final = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
_TOO_LARGE: Final = "TooLarge"
_UNFORESEEN: Final = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN})


def _random_name() -> str:
    return secrets.token_hex(8)


@dataclass(slots=True)
class Doubts:
    """Steps whose peer was away last time: one job at a time tries them again.

    So that a peer that hangs, with a thousand jobs waiting for it, holds up nobody who
    waits for another. Nothing of it need survive a restart.
    """

    _steps: set[str] = field(default_factory=set)
    _trying: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def barred(self, most: int) -> set[str]:
        """Steps that no further job should try now.

        Args:
            most: How many doubtful steps may be tried at the same time.
        """
        with self._lock:
            return set(self._steps if len(self._trying) >= most else self._trying)

    def enter(self, step: str) -> bool:
        """Begin a step; False if it is doubtful and tried already."""
        with self._lock:
            if step not in self._steps:
                return True
            if step in self._trying:
                return False
            self._trying.add(step)
            return True

    def leave(self, step: str, *, peer_was_away: bool) -> None:
        """Note how the step went."""
        with self._lock:
            self._trying.discard(step)
            if peer_was_away:
                self._steps.add(step)
            else:
                self._steps.discard(step)


@dataclass(frozen=True, slots=True)
class Engine:
    """One process's share of the work on a registry's jobs.

    `lease_s` must be half as long again as a call to a peer may take.
    """

    registry: Registry
    peers: Peers
    policies: Policies = field(default_factory=Policies)
    lease_s: float = DEFAULT_LEASE_S
    workers: int = DEFAULT_WORKERS
    holder: str = field(default_factory=_random_name)
    doubts: Doubts = field(default_factory=Doubts)

    def run_once(self) -> bool:
        """Do, in this thread, what is due now; was there anything?"""
        self.look_at_policies()
        leases = self.claim(self.workers)
        for lease in leases:
            self.work_on(lease)
        return bool(leases)

    def claim(self, limit: int) -> Sequence[Lease]:
        """Lease up to `limit` due jobs; nothing is written if there are none."""
        if limit < 1:
            return ()
        now_ms, barred = (
            self.registry.clock(),
            self.doubts.barred(max(1, self.workers // 2)),
        )
        with self.registry.database.reading() as session:
            if not jobs.due(session, now_ms, 1, barred):
                return ()
        with self.registry.own_change() as change:
            return jobs.claim(change, self.holder, self._lease_ms, limit, barred)

    def work_on(self, lease: Lease | None) -> None:
        """Do a job's steps for as long as one is due and the lease is ours."""
        while lease is not None:
            lease = self._enter(lease)

    def look_at_policies(self) -> None:
        """Open what the policy asks for, and close what nobody approved."""
        while schedule.begin_due(self.registry, self.policies):
            pass
        now_ms = self.registry.clock()
        with self.registry.database.reading() as session:
            if not approvals.expiring(session, now_ms):
                return
        with self.registry.own_change() as change:
            approvals.expire(change)

    def give_back(self) -> None:
        """Let go of every lease: this process stops."""
        with self.registry.own_change() as change:
            jobs.give_back(change, self.holder)

    @property
    def _lease_ms(self) -> int:
        return round(self.lease_s * 1000)

    def _is_fresh(self, lease: Lease) -> bool:
        """May a call to a peer begin? Not one that could outlive the lease."""
        left_ms = lease.until_ms - self.registry.clock()
        return left_ms >= self._lease_ms * 2 / 3

    def _enter(self, lease: Lease) -> Lease | None:
        if not self._is_fresh(lease) or not self.doubts.enter(lease.step):
            self._free(lease)
            return None
        return self._step(lease)

    def _free(self, lease: Lease) -> None:
        try:
            with self.registry.own_change() as change:
                jobs.free(change, lease)
        except KeymixerError as error:
            log.warning("lease kept", extra=_facts(lease) | {"kind": error.kind})

    def _step(self, lease: Lease) -> Lease | None:
        """Do one step; returns the lease for the next one, if that is due."""
        work = Work(lease, self.registry, self.peers, self.policies, self._lease_ms)
        away = False
        try:
            STEPS[lease.kind, lease.step](work)
        except LeaseLost as lost:
            log.info("step given up", extra=_facts(lease) | {"why": str(lost)})
            return None
        except Exception as error:  # noqa: BLE001 -- it is logged, and the job put off
            away = isinstance(error, Unavailable)
            self._note_failure(lease, error)
            return None
        finally:
            self.doubts.leave(lease.step, peer_was_away=away)
        log.info("step done", extra=_facts(lease))
        return work.left

    def _note_failure(self, lease: Lease, error: Exception) -> None:
        _log_failure(lease, error)
        work = Work(lease, self.registry, self.peers, self.policies, self._lease_ms)
        try:
            with work.commit() as (change, job):
                if _passes_by_itself(job, error):
                    again_ms = change.now_ms + pause_ms(job.attempts)
                    jobs.put_off(change, job, _why(error), again_ms)
                else:
                    why = f"{_why(error)}; {_advice(lease)}"
                    jobs.leave_to_operator(change, job, why, _kind(error))
        except (LeaseLost, KeymixerError) as failure:
            # Nothing was noted: the lease runs out, and the step is tried again.
            log.warning(
                "failure not noted", extra=_facts(lease) | {"why": str(failure)}
            )


def pause_ms(attempts: int) -> int:
    """How long a step waits that has failed so often: twice as long each time."""
    # Shifted further, it would only be a larger number than the bound.
    return min(FIRST_PAUSE_MS << min(attempts, 16), LONGEST_PAUSE_MS)


def _passes_by_itself(job: Job, error: Exception) -> bool:
    """Is there hope without an operator: a peer away, an upload still to come?"""
    if _is_bug(error):
        return jobs.stumble(job) < TRIES_OF_A_BUG
    if _is_missing(error):
        return job.step in _AWAIT_UPLOADS
    if isinstance(error, RemoteError) and error.kind != _TOO_LARGE:
        return error.status in _PASSING
    return isinstance(error, Unavailable)


def _is_bug(error: Exception) -> bool:
    """Did something happen that nobody has foreseen, here or at the peer?"""
    if isinstance(error, RemoteError):
        return error.status in _UNFORESEEN
    return not isinstance(error, KeymixerError)


def _is_missing(error: Exception) -> bool:
    if isinstance(error, RemoteError):
        return error.status is StatusCode.NOT_FOUND
    return isinstance(error, NotFound)


@contextmanager
def running(engine: Engine) -> Iterator[None]:
    """Run the engine in threads of its own until the context is left.

    Steps that have begun are then finished, and every lease is given back.
    """
    crew = _Crew(engine)
    crew.start()
    try:
        yield
    finally:
        crew.stop()


class _Crew:
    """The threads: one leases what is due, the others do it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = threading.Event()
        self._queue: SimpleQueue[Lease | None] = SimpleQueue()
        # A few more than there are workers, so that none waits for the next claim.
        self._room = threading.BoundedSemaphore(2 * engine.workers)
        names = [f"worker-{number}" for number in range(engine.workers)]
        self._workers = [
            threading.Thread(target=self._work, name=name, daemon=True)
            for name in names
        ]
        self._clerk = threading.Thread(target=self._lease, name="jobs", daemon=True)
        self._look_at = 0.0

    def start(self) -> None:
        for thread in (self._clerk, *self._workers):
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._engine.registry.work.set()
        self._clerk.join()
        for _ in self._workers:
            self._queue.put(None)
        for thread in self._workers:
            thread.join()
        try:
            self._engine.give_back()
        except KeymixerError as error:
            log.warning("leases not given back", extra={"kind": error.kind})

    def _lease(self) -> None:
        """Lease what is due for as long as there is room; no failure ends it."""
        bell = self._engine.registry.work
        while not self._stopping.is_set():
            bell.clear()
            try:
                self._look_at_policies()
                busy = self._fill()
            except Exception:
                log.exception("jobs cannot be leased")
                busy = False
            if not busy:
                bell.wait(POLL_S)

    def _look_at_policies(self) -> None:
        """Once a second, or more seldom if it takes long, as of very many keys."""
        began = time.monotonic()
        if began < self._look_at:
            return
        self._engine.look_at_policies()
        now = time.monotonic()
        self._look_at = now + max(SCHEDULE_S, SCHEDULE_SHARE * (now - began))

    def _fill(self) -> bool:
        """Fill the queue; returns whether there may be more to lease."""
        room = 0
        while self._room.acquire(blocking=False):
            room += 1
        leases: Sequence[Lease] = ()
        try:
            leases = self._engine.claim(room)
        finally:
            if spare := room - len(leases):
                self._room.release(spare)
        for lease in leases:
            self._queue.put(lease)
        return 0 < room == len(leases)

    def _work(self) -> None:
        while (lease := self._queue.get()) is not None:
            try:
                if not self._stopping.is_set():
                    self._engine.work_on(lease)
            except Exception:
                log.exception("a worker stumbled", extra=_facts(lease))
            finally:
                self._room.release()
                self._engine.registry.work.set()


def _facts(lease: Lease) -> dict[str, str | int]:
    return {"job": lease.job_id, "job_kind": lease.kind, "step": lease.step}


def _log_failure(lease: Lease, error: Exception) -> None:
    facts = _facts(lease)
    if isinstance(error, KeymixerError):
        log.warning(
            "step failed", extra=facts | {"kind": error.kind, "why": str(error)}
        )
    else:
        log.error("step failed for no known reason", extra=facts, exc_info=error)


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, KeymixerError) else type(error).__name__


def _why(error: Exception) -> str:
    """The reason, for an operator; what a bug says stays in our log."""
    if isinstance(error, KeymixerError):
        return f"{error.kind}: {error}"
    return f"{type(error).__name__}: see the orchestrator's log"


def _advice(lease: Lease) -> str:
    number = lease.job_id
    return f"`keymixer jobs retry {number}` or `keymixer jobs abort {number}`"

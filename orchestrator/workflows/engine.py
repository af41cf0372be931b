"""The engine: leases jobs that are due, and does their next steps.

Several engines may work on one database: a job is leased to one of them at a time, and
a lease that runs out is taken over. Nothing is kept here that a restart would miss.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import KeymixerError, Unavailable
from orchestrator.federation import Policies
from orchestrator.registry.store import Registry
from orchestrator.settings import DEFAULT_LEASE_S, DEFAULT_WORKERS
from orchestrator.workflows import approvals, failures, jobs, leases, schedule
from orchestrator.workflows.doubts import Doubts
from orchestrator.workflows.leases import Lease, LeaseLost
from orchestrator.workflows.peers import Peers
from orchestrator.workflows.procedures import STEPS
from orchestrator.workflows.work import Work

log = logging.getLogger(__name__)


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
    holder: str = field(default_factory=lambda: secrets.token_hex(8))
    doubts: Doubts = field(default_factory=Doubts)

    def run_once(self) -> bool:
        """Do, in this thread, what is due now; was there anything?"""
        self.look_at_policies()
        leased = self.claim(self.workers)
        for lease in leased:
            self.work_on(lease)
        return bool(leased)

    def claim(self, limit: int) -> Sequence[Lease]:
        """Lease up to `limit` due jobs; nothing is written if there are none."""
        if limit < 1:
            return ()
        now_ms = self.registry.clock()
        barred = self.doubts.barred(most=max(1, self.workers // 2))
        with self.registry.database.reading() as session:
            if not leases.due(session, now_ms, 1, barred):
                return ()
        with self.registry.own_change() as change:
            return leases.claim(change, self.holder, self._lease_ms, limit, barred)

    def work_on(self, lease: Lease | None) -> None:
        """Do a job's steps for as long as one is due and the lease is ours."""
        while lease is not None:
            lease = self.step(lease)

    def step(self, lease: Lease) -> Lease | None:
        """Do a job's next step; returns the lease for the one after it, if it is due.

        A lease that is not fresh, or whose step is doubtful, is let go.
        """
        if self._is_fresh(lease) and self.doubts.enter(lease.step):
            return self._do(lease)
        self._free(lease)
        return None

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
            leases.give_back(change, self.holder)

    @property
    def _lease_ms(self) -> int:
        return round(self.lease_s * 1000)

    def _is_fresh(self, lease: Lease) -> bool:
        """May a call to a peer begin? Not one that could outlive the lease."""
        left_ms = lease.until_ms - self.registry.clock()
        return left_ms >= self._lease_ms * 2 / 3

    def _free(self, lease: Lease) -> None:
        try:
            with self.registry.own_change() as change:
                leases.free(change, lease)
        except KeymixerError as error:
            log.warning("lease kept", extra=lease.log_fields() | {"kind": error.kind})

    def _do(self, lease: Lease) -> Lease | None:
        work = Work(lease, self.registry, self.peers, self.policies, self._lease_ms)
        away = False
        try:
            STEPS[lease.kind, lease.step](work)
        except LeaseLost as lost:
            log.info("step given up", extra=lease.log_fields() | {"why": str(lost)})
            # If somebody moved the job on, the lease is still ours, and in its way.
            self._free(lease)
            return None
        except Exception as error:  # noqa: BLE001 -- it is logged, and the job put off
            away = isinstance(error, Unavailable)
            self._note_failure(lease, error)
            return None
        finally:
            self.doubts.leave(lease.step, peer_was_away=away)
        log.info("step done", extra=lease.log_fields())
        return work.left

    def _note_failure(self, lease: Lease, error: Exception) -> None:
        _log_failure(lease, error)
        work = Work(lease, self.registry, self.peers, self.policies, self._lease_ms)
        try:
            with work.commit() as (change, job):
                if failures.passes_by_itself(job, error):
                    again_ms = change.now_ms + failures.pause_ms(job.attempts)
                    jobs.put_off(change, job, failures.why(error), again_ms)
                else:
                    why = f"{failures.why(error)}; {failures.advice(job)}"
                    jobs.leave_to_operator(change, job, why, failures.kind_of(error))
        except (LeaseLost, KeymixerError) as failure:
            # Nothing was noted: the lease runs out, and the step is tried again.
            log.warning(
                "failure not noted", extra=lease.log_fields() | {"why": str(failure)}
            )


def _log_failure(lease: Lease, error: Exception) -> None:
    fields = lease.log_fields()
    if isinstance(error, KeymixerError):
        fields |= {"kind": error.kind, "why": str(error)}
        log.warning("step failed", extra=fields)
    else:
        log.error("step failed for no known reason", extra=fields, exc_info=error)

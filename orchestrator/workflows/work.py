"""One leased job, and what its step may use: rows, peers, policies, one commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from sqlalchemy import Select, bindparam
from sqlalchemy.orm import Session

from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.models import Job, KeyVersion
from orchestrator.registry.store import Change, Registry
from orchestrator.workflows import leases
from orchestrator.workflows.leases import Lease
from orchestrator.workflows.peers import Peers


@dataclass(slots=True)
class Work:
    """A step reads, asks at most one peer, and commits once.

    Between the reading and the commit anything may happen: the commit reads again.
    """

    lease: Lease
    registry: Registry
    peers: Peers
    policies: Policies
    lease_ms: int
    # What is still leased once the step has committed.
    left: Lease | None = None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Look at the rows, before a peer is asked."""
        with self.registry.database.reading() as session:
            yield session

    @contextmanager
    def commit(self) -> Iterator[tuple[Change, Job]]:
        """Write what the step has done: all of it, or nothing.

        Raises:
            LeaseLost: the job is no longer ours, or no longer at this step.
        """
        with self.registry.own_change() as change:
            job = leases.held(change.session, self.lease)
            yield replace(change, about={"job": job.id}), job
            self.left = leases.keep_or_free(change, job, self.lease, self.lease_ms)

    def version(self, session: Session) -> KeyVersion:
        """The key version that the job is about."""
        return session.scalars(_version(), {"id": self.lease.key_version_id}).one()

    def idempotency_key(self, role: str, what: int | str = "") -> str:
        """Names a remote call: the same again means the same call again.

        Args:
            role: Who is asked.
            what: What the call is about, if the step makes several.
        """
        name = f"{self.lease.job_id}/{self.lease.step}/{role}"
        return f"{name}/{what}" if what else name


@cache
def _version() -> Select[KeyVersion]:
    """Built once: every step asks for its key version twice."""
    return store.select_key_versions().where(KeyVersion.id == bindparam("id"))

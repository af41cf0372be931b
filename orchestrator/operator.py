"""An operator's view of a running federation: ask the orchestrator, over mutual TLS."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.rpc.channel import open_channel
from core.rpc.errors import remote_errors
from core.rpc.identity import load_identity
from core.rpc.pages import pages
from core.rpc.settings import Peer, read_settings
from protos import audit_pb2, registry_pb2
from protos import workflows_pb2 as pb
from protos.audit_pb2_grpc import AuditServiceStub
from protos.registry_pb2_grpc import RegistryServiceStub
from protos.workflows_pb2_grpc import WorkflowServiceStub

# Calls that change the rows of every owner of a model in one transaction.
_ALL_OWNERS_S: Final = 60.0
# What the orchestrator lists at once.
JOBS_PAGE: Final = 1000


@dataclass(frozen=True)
class Operator:
    """The calls an operator may make; each raises a typed error if it is refused.

    An answer with an `approval_id` other than 0 says that nothing was done yet: another
    operator must approve it.
    """

    registry: RegistryServiceStub
    workflows: WorkflowServiceStub
    audit: AuditServiceStub

    def parties(self) -> list[registry_pb2.Party]:
        """All parties."""

        def ask(after: int) -> registry_pb2.ListPartiesResponse:
            request = registry_pb2.ListPartiesRequest(after=after)
            with remote_errors("orchestrator"):
                return self.registry.ListParties(request)

        return [party for page in pages(ask) for party in page.parties]

    def models(self, name: str = "") -> list[registry_pb2.ModelVersion]:
        """All model versions, or those of one model."""
        with remote_errors("orchestrator"):
            answer = self.registry.ListModelVersions(
                registry_pb2.ListModelVersionsRequest(name=name)
            )
        return list(answer.versions)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let an alias such as `champion` name a version of a model."""
        request = registry_pb2.SetAliasRequest(name=model, alias=alias, version=version)
        with remote_errors("orchestrator"):
            self.registry.SetAlias(request)

    def key_versions(self, key_id: str = "") -> list[registry_pb2.KeyVersion]:
        """All key versions, or those of one key, by key and version."""

        def ask(after: int) -> registry_pb2.ListKeyVersionsResponse:
            request = registry_pb2.ListKeyVersionsRequest(key_id=key_id, after=after)
            with remote_errors("orchestrator"):
                return self.registry.ListKeyVersions(request)

        found = [version for page in pages(ask) for version in page.versions]
        return sorted(found, key=lambda each: (each.key_id, each.version))

    def issued(self, key_id: str = "") -> list[registry_pb2.IssuedModel]:
        """All issued models, or those for one key."""

        def ask(after: int) -> registry_pb2.ListIssuedModelsResponse:
            request = registry_pb2.ListIssuedModelsRequest(key_id=key_id, after=after)
            with remote_errors("orchestrator"):
                return self.registry.ListIssuedModels(request)

        return [issued for page in pages(ask) for issued in page.issued]

    def grant(
        self, owner: str, model: str, *, max_images: int | None = None, period: str = ""
    ) -> None:
        """Allow an owner (a SPIFFE ID) to use a model.

        Args:
            owner: who.
            model: its name.
            max_images: the budget of a grant that is new; None: what the policy says.
            period: `total`, `day` or `month`.
        """
        request = pb.GrantModelRequest(
            owner=owner, model=model, max_images=max_images, period=period
        )
        with remote_errors("orchestrator"):
            self.workflows.GrantModel(request)

    def grants(self, owner: str = "") -> list[registry_pb2.Grant]:
        """All grants and their budgets, or those of one owner (a SPIFFE ID)."""

        def ask(after: int) -> registry_pb2.ListGrantsResponse:
            request = registry_pb2.ListGrantsRequest(owner=owner, after=after)
            with remote_errors("orchestrator"):
                return self.registry.ListGrants(request)

        return [grant for page in pages(ask) for grant in page.grants]

    def set_budget(
        self,
        owner: str,
        model: str,
        max_images: int | None,
        period: str,
        *,
        instead_of: int | None = None,
    ) -> None:
        """Replace the budget of an owner (a SPIFFE ID) for a model.

        Args:
            owner: who.
            model: its name.
            max_images: how many may be answered in a period; None: no limit.
            period: `total`, `day` or `month`.
            instead_of: only if this many are allowed now; None: in any case.
        """
        request = pb.SetBudgetRequest(
            owner=owner,
            model=model,
            max_images=max_images,
            period=period,
            instead_of=instead_of,
        )
        with remote_errors("orchestrator"):
            self.workflows.SetBudget(request)

    def create_key(self, owner: str, model: str) -> pb.CreateKeyResponse:
        """Have an owner's first key drawn."""
        with remote_errors("orchestrator"):
            return self.workflows.CreateKey(
                pb.CreateKeyRequest(owner=owner, model=model)
            )

    def rotate_keys(
        self,
        model: str,
        overlap_s: float,
        *,
        owner: str = "",
        older_than_s: float = 0.0,
        dry_run: bool = False,
    ) -> pb.RotateKeysResponse:
        """Have new versions drawn of one owner's key, or of all that fit.

        Args:
            model: whose keys.
            overlap_s: how long the old versions are served beside the new ones.
            owner: a SPIFFE ID; empty: every owner.
            older_than_s: only keys whose primary version is older.
            dry_run: only say what would happen.
        """
        request = pb.RotateKeysRequest(
            owner=owner,
            model=model,
            older_than_s=older_than_s,
            overlap_s=overlap_s,
            dry_run=dry_run,
        )
        with remote_errors("orchestrator"):
            return self.workflows.RotateKeys(request, timeout=_ALL_OWNERS_S)

    def revoke_key(self, owner: str, model: str, reason: str) -> pb.RevokeKeyResponse:
        """Revoke every version of an owner's key."""
        with remote_errors("orchestrator"):
            return self.workflows.RevokeKey(
                pb.RevokeKeyRequest(owner=owner, model=model, reason=reason)
            )

    def suspend_key(self, owner: str, model: str, reason: str) -> pb.SuspendKeyResponse:
        """Have an owner's key refused until it is resumed."""
        with remote_errors("orchestrator"):
            return self.workflows.SuspendKey(
                pb.SuspendKeyRequest(owner=owner, model=model, reason=reason)
            )

    def resume_key(self, owner: str, model: str) -> pb.ResumeKeyResponse:
        """Serve an owner's suspended key again."""
        with remote_errors("orchestrator"):
            return self.workflows.ResumeKey(
                pb.ResumeKeyRequest(owner=owner, model=model)
            )

    def report_compromise(
        self, owner: str, model: str, reason: str
    ) -> pb.ReportCompromiseResponse:
        """Say that an owner's key is known to somebody else."""
        request = pb.ReportCompromiseRequest(owner=owner, model=model, reason=reason)
        with remote_errors("orchestrator"):
            return self.workflows.ReportCompromise(request, timeout=_ALL_OWNERS_S)

    def restore_key(self, key_id: str, version: int) -> pb.RestoreKeyResponse:
        """Take the destruction of a key version back; it is suspended."""
        with remote_errors("orchestrator"):
            return self.workflows.RestoreKey(
                pb.RestoreKeyRequest(key_id=key_id, version=version)
            )

    def destroy_key(self, key_id: str, version: int) -> pb.DestroyKeyResponse:
        """Destroy a key version without waiting for the end of its window."""
        with remote_errors("orchestrator"):
            return self.workflows.DestroyKey(
                pb.DestroyKeyRequest(key_id=key_id, version=version)
            )

    def export_key(self, key_id: str, version: int) -> pb.ExportKeyResponse:
        """Get a key version, sealed to the key holder's recovery key."""
        with remote_errors("orchestrator"):
            return self.workflows.ExportKey(
                pb.ExportKeyRequest(key_id=key_id, version=version)
            )

    def revoke_party(self, spiffe_id: str, reason: str) -> pb.RevokePartyResponse:
        """Expel a party; its keys are revoked with it."""
        request = pb.RevokePartyRequest(spiffe_id=spiffe_id, reason=reason)
        with remote_errors("orchestrator"):
            return self.workflows.RevokeParty(request, timeout=_ALL_OWNERS_S)

    def jobs(self, *, open_only: bool = False) -> Iterator[pb.Job]:
        """The jobs, newest first, page by page."""
        before = 0
        while True:
            request = pb.ListJobsRequest(open=open_only, before=before)
            with remote_errors("orchestrator"):
                page = self.workflows.ListJobs(request).jobs
            yield from page
            if len(page) < JOBS_PAGE:
                return
            before = page[-1].id

    def jobs_by_id(self, ids: Sequence[int]) -> list[pb.Job]:
        """The jobs named, newest first a page; who is not there is left out."""
        found: list[pb.Job] = []
        for first in range(0, len(ids), JOBS_PAGE):
            request = pb.ListJobsRequest(ids=ids[first : first + JOBS_PAGE])
            with remote_errors("orchestrator"):
                found.extend(self.workflows.ListJobs(request).jobs)
        return found

    def retry_job(self, job_id: int) -> pb.Job:
        """Try a job again that needs an operator."""
        with remote_errors("orchestrator"):
            return self.workflows.RetryJob(pb.RetryJobRequest(id=job_id)).job

    def abort_job(self, job_id: int, reason: str) -> pb.Job:
        """Give a job up."""
        with remote_errors("orchestrator"):
            return self.workflows.AbortJob(
                pb.AbortJobRequest(id=job_id, reason=reason)
            ).job

    def approvals(self, *, open_only: bool = False) -> list[pb.Approval]:
        """Requests that need two operators, newest first."""
        with remote_errors("orchestrator"):
            answer = self.workflows.ListApprovals(
                pb.ListApprovalsRequest(open=open_only)
            )
        return list(answer.approvals)

    def approve(self, approval_id: int) -> pb.Approval:
        """Approve another operator's request."""
        request = pb.ApproveRequest(id=approval_id)
        with remote_errors("orchestrator"):
            return self.workflows.Approve(request, timeout=_ALL_OWNERS_S).approval

    def reject(self, approval_id: int, reason: str) -> pb.Approval:
        """Reject a request, one's own or another operator's."""
        with remote_errors("orchestrator"):
            return self.workflows.Reject(
                pb.RejectRequest(id=approval_id, reason=reason)
            ).approval

    def cosignatures(self) -> tuple[list[audit_pb2.Cosignature], int]:
        """The newest cosignature of each witness, and how many records there are."""

        def ask(after: int) -> audit_pb2.ListCosignaturesResponse:
            request = audit_pb2.ListCosignaturesRequest(after=after)
            with remote_errors("orchestrator"):
                return self.audit.ListCosignatures(request)

        found = list(pages(ask))
        return [each for page in found for each in page.cosignatures], found[-1].size

    def checkpoint(self) -> audit_pb2.GetCheckpointResponse:
        """The newest signed checkpoint and the log's public key."""
        with remote_errors("orchestrator"):
            return self.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())

    def inclusion_proof(
        self, index: int, size: int
    ) -> audit_pb2.GetInclusionProofResponse:
        """Proof that record `index` is in the log's tree of `size` records."""
        request = audit_pb2.GetInclusionProofRequest(index=index, tree_size=size)
        with remote_errors("orchestrator"):
            return self.audit.GetInclusionProof(request)

    def erase_note(self, index: int, reason: str) -> list[int]:
        """Erase what was typed with a record; gives the others with the same text."""
        request = audit_pb2.EraseNoteRequest(index=index, reason=reason)
        with remote_errors("orchestrator"):
            answer = self.audit.EraseNote(request)
        return list(answer.same_text)

    def entries(
        self, start: int = 0, kind: str = "", party: str = ""
    ) -> Iterator[audit_pb2.AuditEntry]:
        """The log's records from `start` on, page by page.

        Args:
            start: the first index.
            kind: only records of this kind; empty: of every kind.
            party: only records that name this SPIFFE ID; empty: all.
        """
        wanted = audit_pb2.ListEntriesRequest(start=start, kind=kind, party=party)
        return self.find_entries(wanted)

    def find_entries(
        self, wanted: audit_pb2.ListEntriesRequest
    ) -> Iterator[audit_pb2.AuditEntry]:
        """All records that fit, by index; as many calls as that takes."""
        while True:
            page = self.entries_page(wanted)
            yield from page.entries
            if not page.next_start:
                return
            wanted = from_index(wanted, page.next_start)

    def entries_page(
        self, wanted: audit_pb2.ListEntriesRequest
    ) -> audit_pb2.ListEntriesResponse:
        """One page of the records that fit."""
        with remote_errors("orchestrator"):
            return self.audit.ListEntries(wanted)


def from_index(
    wanted: audit_pb2.ListEntriesRequest, start: int
) -> audit_pb2.ListEntriesRequest:
    """The same question, from another index on."""
    request = audit_pb2.ListEntriesRequest()
    request.CopyFrom(wanted)
    request.start = start
    return request


@contextlib.contextmanager
def operator(folder: Path) -> Iterator[Operator]:
    """Connect with the operator's identity and settings in `folder`."""
    peer = Peer.read(read_settings(folder), "orchestrator")
    with open_channel(peer.address, load_identity(folder), peer.spiffe_id) as channel:
        yield Operator(
            RegistryServiceStub(channel),
            WorkflowServiceStub(channel),
            AuditServiceStub(channel),
        )

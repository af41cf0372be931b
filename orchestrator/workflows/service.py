"""The workflows' gRPC service: decode, call, encode."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc

from core.errors import InvalidInput, Unavailable
from core.rpc.errors import rpc_errors
from core.rpc.identity import SpiffeId
from core.rpc.policy import current_caller
from orchestrator.audit.notes import check_reason
from orchestrator.errors import ExportInterrupted
from orchestrator.federation import Policies
from orchestrator.registry import budgets, models, periods
from orchestrator.registry.budgets import UNLIMITED, Budget
from orchestrator.registry.lifecycle import KeyState
from orchestrator.registry.store import Change, Registry
from orchestrator.workflows import (
    approvals,
    gate,
    holding,
    jobs,
    keys,
    requests,
    rotation,
    undoing,
)
from orchestrator.workflows.approvals import Action
from orchestrator.workflows.peers import KeyHolder
from orchestrator.workflows.requests import PERFORM
from orchestrator.workflows.rotation import Rotation, Wish
from protos import workflows_pb2 as pb
from protos import workflows_pb2_grpc as rpc

LARGEST_PAGE: Final = 1000


class WorkflowService(rpc.WorkflowServiceServicer):
    """Each call alters rows and opens jobs; the engine does what follows."""

    def __init__(
        self, registry: Registry, policies: Policies, key_holder: KeyHolder
    ) -> None:
        self._registry = registry
        self._policies = policies
        self._key_holder = key_holder

    def GrantModel(
        self, request: pb.GrantModelRequest, context: grpc.ServicerContext
    ) -> pb.GrantModelResponse:
        with self._changing(context) as change:
            keys.grant(change, request.owner, request.model, self._budget(request))
            return pb.GrantModelResponse()

    def SetBudget(
        self, request: pb.SetBudgetRequest, context: grpc.ServicerContext
    ) -> pb.SetBudgetResponse:
        instead_of = request.instead_of if request.HasField("instead_of") else None
        with self._changing(context) as change:
            budgets.replace_budget(
                change, request.owner, request.model, _budget(request), instead_of
            )
            return pb.SetBudgetResponse()

    def CreateKey(
        self, request: pb.CreateKeyRequest, context: grpc.ServicerContext
    ) -> pb.CreateKeyResponse:
        asked = {"owner": request.owner, "model": request.model}
        with self._changing(context) as change:
            if waits := self._request(change, Action.CREATE_KEY, asked):
                return pb.CreateKeyResponse(approval_id=waits)
            job = keys.create(change, self._policies, **asked)
            made = _version_of(job)
            return pb.CreateKeyResponse(
                key_id=made.key.key_id, version=made.version, job_id=job.id
            )

    def RotateKeys(
        self, request: pb.RotateKeysRequest, context: grpc.ServicerContext
    ) -> pb.RotateKeysResponse:
        asked: dict[str, Any] = {
            "model": request.model,
            "overlap_s": request.overlap_s,
            "owner": request.owner,
            "older_than_s": request.older_than_s,
        }
        with self._changing(context) as change:
            wish, dry_run = Wish(**asked), request.dry_run
            if not dry_run and (
                waits := self._request(change, Action.ROTATE_KEYS, asked)
            ):
                return pb.RotateKeysResponse(approval_id=waits)
            found = rotation.rotate(change, self._policies, wish, dry_run=dry_run)
            return pb.RotateKeysResponse(rotations=map(_rotation, found))

    def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: grpc.ServicerContext
    ) -> pb.RevokeKeyResponse:
        asked = {
            "owner": request.owner,
            "model": request.model,
            "reason": request.reason,
        }
        with self._changing(context) as change:
            check_reason(request.reason)
            if waits := self._request(change, Action.REVOKE_KEY, asked):
                return pb.RevokeKeyResponse(approval_id=waits)
            key_id, versions = keys.revoke(change, self._policies, **asked)
            return pb.RevokeKeyResponse(key_id=key_id, versions=versions)

    def SuspendKey(
        self, request: pb.SuspendKeyRequest, context: grpc.ServicerContext
    ) -> pb.SuspendKeyResponse:
        with self._changing(context) as change:
            key_id, versions = holding.suspend(
                change, request.owner, request.model, request.reason
            )
            return pb.SuspendKeyResponse(key_id=key_id, versions=versions)

    def ResumeKey(
        self, request: pb.ResumeKeyRequest, context: grpc.ServicerContext
    ) -> pb.ResumeKeyResponse:
        with self._changing(context) as change:
            key_id, versions = holding.resume(change, request.owner, request.model)
            return pb.ResumeKeyResponse(key_id=key_id, versions=versions)

    def ReportCompromise(
        self, request: pb.ReportCompromiseRequest, context: grpc.ServicerContext
    ) -> pb.ReportCompromiseResponse:
        with self._changing(context) as change:
            found, waits = requests.report_compromise(
                change, self._policies, request.owner, request.model, request.reason
            )
            return pb.ReportCompromiseResponse(
                key_id=found.key_id,
                versions=found.versions,
                suspended=found.suspended,
                recovery_job_id=found.recovery.id if found.recovery else 0,
                needed=found.needed,
                approval_id=waits,
            )

    def RestoreKey(
        self, request: pb.RestoreKeyRequest, context: grpc.ServicerContext
    ) -> pb.RestoreKeyResponse:
        asked: dict[str, Any] = {"key_id": request.key_id, "version": request.version}
        with self._changing(context) as change:
            job = holding.restorable(change, **asked)
            if waits := self._request(change, Action.RESTORE_KEY, asked, job.id):
                return pb.RestoreKeyResponse(
                    state=KeyState.DESTROY_SCHEDULED, approval_id=waits
                )
            row = holding.restore(change, **asked)
            return pb.RestoreKeyResponse(state=row.state)

    def DestroyKey(
        self, request: pb.DestroyKeyRequest, context: grpc.ServicerContext
    ) -> pb.DestroyKeyResponse:
        asked: dict[str, Any] = {"key_id": request.key_id, "version": request.version}
        with self._changing(context) as change:
            job = requests.ending_job(change, **asked)
            if waits := self._request(change, Action.DESTROY_KEY, asked, job.id):
                return pb.DestroyKeyResponse(job_id=job.id, approval_id=waits)
            keys.destroy_now(change, **asked)
            return pb.DestroyKeyResponse(job_id=job.id)

    def ExportKey(
        self, request: pb.ExportKeyRequest, context: grpc.ServicerContext
    ) -> pb.ExportKeyResponse:
        named = (request.key_id, request.version)
        with self._changing(context) as change:
            waits = requests.begin_export(change, self._policies, *named)
        if waits:
            return pb.ExportKeyResponse(approval_id=waits)
        # Only now, that the record is durable, does the key leave the key holder.
        with rpc_errors(context), _interrupted():
            sealed = self._key_holder.export(*named)
        return pb.ExportKeyResponse(
            envelope=sealed.envelope,
            signature=sealed.signature,
            expires_at_ms=sealed.expires_at_ms,
        )

    def RevokeParty(
        self, request: pb.RevokePartyRequest, context: grpc.ServicerContext
    ) -> pb.RevokePartyResponse:
        asked = {"spiffe_id": request.spiffe_id, "reason": request.reason}
        with self._changing(context) as change:
            check_reason(request.reason)
            if waits := self._request(change, Action.REVOKE_PARTY, asked):
                return pb.RevokePartyResponse(approval_id=waits)
            key_ids = keys.revoke_party(change, self._policies, **asked)
            return pb.RevokePartyResponse(key_ids=key_ids)

    def ListJobs(
        self, request: pb.ListJobsRequest, context: grpc.ServicerContext
    ) -> pb.ListJobsResponse:
        with (
            rpc_errors(context),
            self._registry.reading(current_caller()) as session,
        ):
            found = jobs.listed(
                session,
                open_only=request.open,
                ids=request.ids,
                before=request.before,
                limit=_page_size(request),
            )
            return pb.ListJobsResponse(jobs=map(_job, found))

    def RetryJob(
        self, request: pb.RetryJobRequest, context: grpc.ServicerContext
    ) -> pb.RetryJobResponse:
        with self._changing(context) as change:
            job = jobs.named(change.session, request.id)
            jobs.retry(change, job)
            return pb.RetryJobResponse(job=_job(job))

    def AbortJob(
        self, request: pb.AbortJobRequest, context: grpc.ServicerContext
    ) -> pb.AbortJobResponse:
        with self._changing(context) as change:
            job = undoing.give_up(change, self._policies, request.id, request.reason)
            return pb.AbortJobResponse(job=_job(job))

    def ListApprovals(
        self, request: pb.ListApprovalsRequest, context: grpc.ServicerContext
    ) -> pb.ListApprovalsResponse:
        with (
            rpc_errors(context),
            self._registry.reading(current_caller()) as session,
        ):
            found = approvals.listed(session, open_only=request.open)
            return pb.ListApprovalsResponse(approvals=map(_approval, found))

    def Approve(
        self, request: pb.ApproveRequest, context: grpc.ServicerContext
    ) -> pb.ApproveResponse:
        with self._changing(context) as change:
            found = approvals.approve(change, self._policies, request.id, PERFORM)
            return pb.ApproveResponse(approval=_approval(found))

    def Reject(
        self, request: pb.RejectRequest, context: grpc.ServicerContext
    ) -> pb.RejectResponse:
        with self._changing(context) as change:
            found = approvals.reject(change, self._policies, request.id, request.reason)
            return pb.RejectResponse(approval=_approval(found))

    @contextmanager
    def _changing(self, context: grpc.ServicerContext) -> Iterator[Change]:
        """One transaction in the caller's name; durable before the answer leaves."""
        with (
            rpc_errors(context),
            gate.recording(self._registry, current_caller()),
            self._registry.change(current_caller()) as change,
        ):
            yield change

    def _budget(self, request: pb.GrantModelRequest) -> Budget:
        """What a new grant may have: as asked for, or as the policy says."""
        if request.HasField("max_images"):
            return _budget(request)
        owner = SpiffeId.parse(request.owner).organisation
        found = self._policies.budget_for(owner, request.model)
        return Budget(found.max_images, found.period) if found else UNLIMITED

    def _request(
        self,
        change: Change,
        action: Action,
        asked: Mapping[str, Any],
        job_id: int | None = None,
    ) -> int:
        """The id of the request that waits for another operator; 0: none need be."""
        if not approvals.is_gated(self._policies, action):
            return 0
        return approvals.request(change, action, asked, job_id=job_id).id


@contextmanager
def _interrupted() -> Iterator[None]:
    """Say of a key holder that was away that what was agreed on is used up."""
    try:
        yield
    except Unavailable as error:
        raise ExportInterrupted(f"{error}; an approval of it is used up") from error


def _budget(request: pb.GrantModelRequest | pb.SetBudgetRequest) -> Budget:
    return Budget(
        request.max_images if request.HasField("max_images") else None,
        periods.read(request.period),
    )


def _page_size(request: pb.ListJobsRequest) -> int:
    if request.before < 0 or not 0 <= request.limit <= LARGEST_PAGE:
        raise InvalidInput(f"expected before >= 0 and 0 <= limit <= {LARGEST_PAGE}")
    if len(request.ids) > LARGEST_PAGE:
        raise InvalidInput(f"ids: at most {LARGEST_PAGE}")
    return request.limit or LARGEST_PAGE


def _version_of(job: models.Job) -> models.KeyVersion:
    if job.key_version is None:
        raise LookupError("a job that creates a key version has one")
    return job.key_version


def _rotation(found: Rotation) -> pb.Rotation:
    return pb.Rotation(
        owner=found.owner,
        key_id=found.key_id,
        from_version=found.from_version,
        to_version=found.to_version,
        job_id=found.job_id,
        left_out=found.left_out,
        age_ms=found.age_ms,
        images_used=found.images_used,
    )


def _job(row: models.Job) -> pb.Job:
    version = row.key_version
    return pb.Job(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        state=row.state,
        step=row.step,
        why=row.why,
        attempts=row.attempts,
        next_at_ms=row.next_at_ms or 0,
        parent_id=row.parent_id or 0,
        created_by=row.created_by,
        created_at_ms=row.created_at_ms,
        changed_at_ms=row.changed_at_ms,
        owner=version.key.owner.spiffe_id if version else "",
        key_id=version.key.key_id if version else "",
        key_version=version.version if version else 0,
        model=version.key.model.name if version else jobs.arguments(row)["model"],
    )


def _approval(row: models.Approval) -> pb.Approval:
    return pb.Approval(
        id=row.id,
        action=row.action,
        arguments=row.arguments.decode(),
        requested_by=row.requested_by,
        state=row.state,
        approved_by=[vote.operator for vote in row.votes],
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
    )

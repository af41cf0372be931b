"""What the registry answers, as the fields of a table or of JSON."""

import json
from typing import Any

from core.duration import show_duration
from orchestrator.cli.outlook import Outlook
from orchestrator.cli.times import now_ms, since, until, when
from orchestrator.federation import Policies, RotationPolicy
from orchestrator.simulation.sentences import short
from protos.registry_pb2 import Grant, IssuedModel, KeyVersion
from protos.workflows_pb2 import Approval, Job, Rotation

Fields = dict[str, Any]


def key_fields(version: KeyVersion, outlook: Outlook) -> Fields:
    """A key version."""
    return {
        "key_id": version.key_id,
        "version": version.version,
        "owner": version.owner,
        "model": version.model,
        "state": version.state,
        "primary": version.primary,
        "confirmed": version.confirmed,
        "images_used": version.images_used,
        "next": outlook.of(version),
        "reason": version.reason,
        "created": when(version.created_at_ms),
        "changed": when(version.changed_at_ms),
        "refused_from": when(version.retire_at_ms),
        "destroyed_from": when(version.destroy_at_ms),
        "generator": version.generator,
        "commitment": version.commitment.hex(),
    }


def key_row(version: KeyVersion, outlook: Outlook) -> Fields:
    """A key version for the eye: an age instead of times."""
    return {
        **key_fields(version, outlook),
        "images_used": f"{version.images_used:,}",
        "age": since(version.created_at_ms, outlook.now_ms),
        "primary": "yes" if version.primary else "",
    }


def grant_fields(grant: Grant) -> Fields:
    """A grant and its budget; `max_images` and `left` are None without a limit."""
    most = grant.max_images if grant.HasField("max_images") else None
    return {
        "owner": grant.owner,
        "model": grant.model,
        "max_images": most,
        "period": grant.period,
        "images_used": grant.images_used,
        "left": None if most is None else most - grant.images_used,
        "renews": when(grant.renews_at_ms),
        "granted": when(grant.created_at_ms),
        "taken_back": when(grant.revoked_at_ms),
    }


def grant_row(grant: Grant) -> Fields:
    """A grant for the eye."""
    fields = grant_fields(grant)
    left = fields["left"]
    return {
        **fields,
        "owner": short(grant.owner),
        "budget": budget_in_words(grant),
        "images_used": f"{grant.images_used:,}",
        "left": "" if left is None else f"{left:,}",
    }


def budget_in_words(grant: Grant) -> str:
    """What an owner may have, such as `1,000 a day`."""
    if not grant.HasField("max_images"):
        return "no limit"
    each = "in all" if grant.period == "total" else f"a {grant.period}"
    return f"{grant.max_images:,} {each}"


def issued_fields(one: IssuedModel) -> Fields:
    """An issued model."""
    return {
        "key_id": one.key_id,
        "key_version": one.key_version,
        "model": one.model,
        "model_version": one.model_version,
        "state": one.state,
        "images": one.images,
        "blocks": one.blocks,
        "digest": one.digest.hex(),
        "created": when(one.created_at_ms),
    }


def job_fields(job: Job) -> Fields:
    """A job."""
    return {
        "id": job.id,
        "kind": job.kind,
        "subject": job.subject,
        "state": job.state,
        "step": job.step,
        "why": job.why,
        "attempts": job.attempts,
        "next_at": when(job.next_at_ms),
        "parent_id": job.parent_id,
        "owner": job.owner,
        "key_id": job.key_id,
        "key_version": job.key_version,
        "model": job.model,
        "created_by": job.created_by,
        "created": when(job.created_at_ms),
        "changed": when(job.changed_at_ms),
    }


def job_row(job: Job) -> Fields:
    """A job for the eye: why it stands where it does, and when it goes on."""
    return {**job_fields(job), "next": _goes_on(job)}


def approval_fields(approval: Approval) -> Fields:
    """A request that needs two operators."""
    return {
        "id": approval.id,
        "action": approval.action,
        "arguments": json.loads(approval.arguments or "{}"),
        "requested_by": approval.requested_by,
        "state": approval.state,
        "approved_by": list(approval.approved_by),
        "created": when(approval.created_at_ms),
        "expires": when(approval.expires_at_ms),
    }


def approval_row(approval: Approval) -> Fields:
    """A request for the eye: organisations instead of identities."""
    fields = approval_fields(approval)
    return {
        **fields,
        "what": ", ".join(f"{k} {short(v)}" for k, v in fields["arguments"].items()),
        "requested_by": short(approval.requested_by),
        "approved_by": ", ".join(map(short, approval.approved_by)),
        "ends": until(approval.expires_at_ms, now_ms()),
    }


def rotation_fields(rotation: Rotation) -> Fields:
    """What happens, or would happen, to one key."""
    return {
        "owner": rotation.owner,
        "key_id": rotation.key_id,
        "from_version": rotation.from_version,
        "to_version": rotation.to_version,
        "job_id": rotation.job_id,
        "left_out": rotation.left_out,
        "age_s": rotation.age_ms / 1000,
        "images_used": rotation.images_used,
    }


def rotation_row(rotation: Rotation) -> Fields:
    """A rotation for the eye."""
    goes_to = f"to version {rotation.to_version}"
    return {
        **rotation_fields(rotation),
        "age": show_duration(rotation.age_ms / 1000),
        "images_used": f"{rotation.images_used:,}",
        "what": f"left out: {rotation.left_out}" if rotation.left_out else goes_to,
    }


def policy_facts(policies: Policies) -> Fields:
    """What the federation's policies say about keys, in words."""
    both = ", ".join(policies.dual_control)
    return {
        "rotation": _rotation_in_words(policies.rotation),
        "overlap": show_duration(policies.rotation_overlap_s),
        "destroy window": show_duration(policies.destroy_window_s),
        "two operators for": both or "nothing",
    }


def _rotation_in_words(policy: RotationPolicy) -> str:
    told = []
    if policy.max_age is not None:
        told.append(f"after {show_duration(policy.max_age)}")
    if policy.max_images is not None:
        told.append(f"after {policy.max_images:,} images")
    if policy.daily_at is not None:
        told.append(f"every day at {policy.daily_at} UTC")
    told += [f"at {moment:%Y-%m-%d %H:%M} {moment.tzname()}" for moment in policy.at]
    return ", or ".join(told) or "when an operator asks"


def _goes_on(job: Job) -> str:
    if job.state == "ready":
        return "now"
    if job.state == "waiting" and job.next_at_ms:
        return f"{until(job.next_at_ms, now_ms())}: {job.why}"
    return job.why

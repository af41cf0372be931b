"""What happens next to a key version, and when: in words, from what the registry says.

Nothing here asks anybody: the state of a version, the open jobs and the federation's
rotation policy are given, and so is the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from orchestrator.cli.times import until
from orchestrator.federation import RotationPolicy
from protos.registry_pb2 import KeyVersion
from protos.workflows_pb2 import Job

# The steps of `create` and `rotate` up to the moment the new version is live.
BEFORE_LIVE: Final = frozenset({"draw", "confirm", "prepare", "send"})
_MS: Final = 1000


@dataclass(frozen=True)
class Outlook:
    """What the next step of a key version depends on, beside the version itself."""

    # Only open ones.
    jobs: Sequence[Job]
    policy: RotationPolicy
    now_ms: int

    def of(self, version: KeyVersion) -> str:
        """What happens next; empty if nothing ever does."""
        job = self.about(_subject(version))
        if job is not None and job.state == "needs_operator":
            return f"job {job.id} needs an operator"
        return _NEXT[version.state](self, version, job)

    def about(self, subject: str) -> Job | None:
        """The open job on a subject."""
        return next((job for job in self.jobs if job.subject == subject), None)


def organisation(spiffe_id: str) -> str:
    """The organisation of a party."""
    return spiffe_id.removeprefix("spiffe://").split("/")[1]


def progress(job: Job) -> str:
    """How far a job is that brings a key version to life."""
    if job.step == "confirm":
        return f"waits for {organisation(job.owner)} to fetch it"
    if job.state == "waiting" and job.why:
        return f"waits: {job.why}"
    return "is drawn" if job.step == "draw" else "the model is issued for it"


def rotation_due_ms(policy: RotationPolicy, created_at_ms: int) -> int | None:
    """When the policy's times make a version due; None: they never do."""
    created = datetime.fromtimestamp(created_at_ms / _MS, tz=UTC)
    moments = [moment for moment in policy.at if moment > created]
    if policy.max_age is not None:
        moments.append(created + timedelta(seconds=policy.max_age))
    if policy.daily_at is not None:
        moments.append(_next_daily(policy.daily_at, created))
    return round(min(moments).timestamp() * _MS) if moments else None


def _next_daily(at: str, after: datetime) -> datetime:
    hour, minute = map(int, at.split(":"))
    today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > after else today + timedelta(days=1)


def _subject(version: KeyVersion) -> str:
    """What the job that works on this version is about."""
    key = f"key:{version.key_id}"
    if version.state == "pre_active":
        return key
    if version.state in ("suspended", "compromised"):
        return f"recover:{version.model}"
    return f"{key}/{version.version}"


def _pre_active(_: Outlook, _version: KeyVersion, job: Job | None) -> str:
    return "no job works on it: revoke it" if job is None else progress(job)


def _active(outlook: Outlook, version: KeyVersion, _: Job | None) -> str:
    rotation = outlook.about(f"key:{version.key_id}")
    if rotation is not None and rotation.step in BEFORE_LIVE:
        return "retires once its successor is live"
    return _by_policy(outlook, version)


def _by_policy(outlook: Outlook, version: KeyVersion) -> str:
    policy, told = outlook.policy, []
    due_ms = rotation_due_ms(policy, version.created_at_ms)
    if due_ms is not None:
        told.append(until(due_ms, outlook.now_ms))
    if policy.max_images is not None:
        left = policy.max_images - version.images_used
        told.append(f"after {left:,} more images" if left > 0 else "now")
    if not told:
        return "served until it is rotated"
    return f"rotates {'now' if 'now' in told else ', or '.join(told)} (policy)"


def _retiring(outlook: Outlook, version: KeyVersion, _: Job | None) -> str:
    return f"refused {until(version.retire_at_ms, outlook.now_ms)}"


def _suspended(_: Outlook, _version: KeyVersion, job: Job | None) -> str:
    if job is None:
        return "refused until it is resumed"
    if job.step == "await_release":
        return f"waits for a clean release (job {job.id})"
    return f"is replaced in the recovery (job {job.id})"


def _compromised(_: Outlook, _version: KeyVersion, job: Job | None) -> str:
    if job is None:
        return "refused for good: revoke it"
    return f"destroyed in the recovery (job {job.id})"


def _destroy_scheduled(outlook: Outlook, version: KeyVersion, job: Job | None) -> str:
    at_ms = version.destroy_at_ms
    if at_ms <= outlook.now_ms and job is not None and job.why:
        return f"waits: {job.why}"
    return f"destroyed {until(at_ms, outlook.now_ms)}"


def _destroyed(_outlook: Outlook, _version: KeyVersion, _job: Job | None) -> str:
    return ""


_NEXT: Final[Mapping[str, Callable[[Outlook, KeyVersion, Job | None], str]]] = {
    "pre_active": _pre_active,
    "active": _active,
    "retiring": _retiring,
    "suspended": _suspended,
    "compromised": _compromised,
    "destroy_scheduled": _destroy_scheduled,
    "destroyed": _destroyed,
}

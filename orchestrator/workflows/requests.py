"""What an operator may ask for that the policy may want two operators for."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from core.errors import KeyRefusedError
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyState
from orchestrator.registry.models import Job, KeyVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import approvals, holding, keys, recovery, rotation
from orchestrator.workflows.approvals import Action, Perform
from orchestrator.workflows.recovery import Compromise
from orchestrator.workflows.rotation import Wish


def begin_export(change: Change, policies: Policies, key_id: str, version: int) -> int:
    """Record that a key version is exported, before it is; or ask for approval.

    Returns:
        The id of a request that waits for another operator; 0: export it now.
    """
    asked = {"key_id": key_id, "version": version}
    row = _exportable(change, key_id, version)
    facts: dict[str, str | int] = {}
    if approvals.is_gated(policies, Action.EXPORT_KEY):
        approved = approvals.use_up(change, Action.EXPORT_KEY, asked)
        if approved is None:
            return approvals.request(change, Action.EXPORT_KEY, asked).id
        facts["approval"] = approved.id
    store.record_key(change, row, "key.exported", **facts)
    return 0


def report_compromise(
    change: Change, policies: Policies, owner: str, model: str, reason: str
) -> tuple[Compromise, int]:
    """Note that a key has leaked; or suspend it at once, and ask for approval.

    To end every key of a model takes two operators where revoking one does; to stop
    the one that leaked must not wait for the second.

    Returns:
        What was done, and the id of a request that waits for another operator.
    """
    asked = {"owner": owner, "model": model, "reason": reason}
    if not approvals.is_gated(policies, Action.REPORT_COMPROMISE):
        return recovery.report(change, policies, **asked), 0
    key_id, held = holding.suspend(change, **asked)
    waits = approvals.request(change, Action.REPORT_COMPROMISE, asked).id
    return Compromise(key_id, [], [key_id] if held else [], None, []), waits


def ending_job(change: Change, key_id: str, version: int) -> Job:
    """The job of a key version that waits to be destroyed; see `keys.ending_job`."""
    return keys.ending_job(change, store.key_version(change.session, key_id, version))


def _exportable(change: Change, key_id: str, version: int) -> KeyVersion:
    row = store.key_version(change.session, key_id, version)
    if row.state == KeyState.DESTROYED or row.commitment is None:
        raise KeyRefusedError("there is no seed to export: not yet, or no longer")
    return row


def _create(change: Change, policies: Policies, asked: Mapping[str, Any]) -> object:
    return keys.create(change, policies, **asked)


def _rotate(change: Change, policies: Policies, asked: Mapping[str, Any]) -> object:
    return rotation.rotate(change, policies, Wish(**asked))


def _revoke(change: Change, policies: Policies, asked: Mapping[str, Any]) -> object:
    return keys.revoke(change, policies, **asked)


def _expel(change: Change, policies: Policies, asked: Mapping[str, Any]) -> object:
    return keys.revoke_party(change, policies, **asked)


def _destroy(change: Change, _policies: Policies, asked: Mapping[str, Any]) -> object:
    return keys.destroy_now(change, **asked)


def _restore(change: Change, _policies: Policies, asked: Mapping[str, Any]) -> object:
    return holding.restore(change, **asked)


def _compromise(change: Change, policies: Policies, asked: Mapping[str, Any]) -> object:
    return recovery.report(change, policies, **asked)


# An export is not done on approval: the one who asked fetches it.
PERFORM: Final[Mapping[Action, Perform]] = MappingProxyType(
    {
        Action.CREATE_KEY: _create,
        Action.ROTATE_KEYS: _rotate,
        Action.REVOKE_KEY: _revoke,
        Action.REVOKE_PARTY: _expel,
        Action.RESTORE_KEY: _restore,
        Action.REPORT_COMPROMISE: _compromise,
        Action.DESTROY_KEY: _destroy,
    }
)

"""Rotations that nobody asks for: `policies.rotation`, looked at once a second."""

from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, time, timedelta
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from core.duration import show_duration
from core.errors import KeymixerError
from orchestrator.federation import Policies, RotationPolicy
from orchestrator.registry.lifecycle import KeyState, PartyState
from orchestrator.registry.models import Grant, Job, Key, KeyVersion, Model, Party
from orchestrator.registry.store import Registry
from orchestrator.workflows import gate, jobs, keys, rotation
from orchestrator.workflows.jobs import Kind, Step

# So that no transaction holds up others for long; the rest follows at once.
AT_ONCE: Final = 100
# A rotation that was given up would be due again at once, if images were all: whoever
# gave it up has this long to see to the cause. A key's age has its own interval.
COOL_DOWN_MS: Final = 3600 * 1000
_ENDED: Final = (KeyState.DESTROY_SCHEDULED, KeyState.DESTROYED)


class _Primary(NamedTuple):
    """A key that could be rotated, and what the policy judges it by."""

    key_id: str
    model_id: int
    patch_size: int
    channels: int
    # When its newest version was created: a rotation that was given up counts too.
    newest_ms: int
    images: int


def begin_due(registry: Registry, policies: Policies) -> bool:
    """Open a rotation for some keys that are due; were any opened?"""
    policy = policies.rotation
    now_ms = registry.clock()
    rules = _moments(policy, now_ms)
    if not rules and policy.max_images is None:
        return False
    with registry.database.reading() as session:
        found = _due(session, policies, rules, now_ms)
    opened = [
        _begin(registry, policies, model_id, key_ids, because)
        for (model_id, because), key_ids in found.items()
    ]
    return any(opened)


def _begin(
    registry: Registry,
    policies: Policies,
    model_id: int,
    key_ids: AbstractSet[str],
    because: str,
) -> bool:
    """Rotate those of these keys that are still free to be rotated."""
    with registry.own_change() as change:
        model = change.session.get_one(Model, model_id)
        chosen = rotation.free_among(change, policies, model, key_ids)
        overlap_s = policies.rotation_overlap_s
        rotation.open_rotations(change, chosen, overlap_s, because=because)
        return bool(chosen)


def _moments(policy: RotationPolicy, now_ms: int) -> dict[str, int]:
    """Why a key is due, and the moment by which its newest version must be created.

    Whatever was created at the very moment of a rotation was created by it.
    """
    found: dict[str, int] = {}
    if policy.max_age is not None:
        why = f"older than {show_duration(policy.max_age)}"
        found[why] = now_ms - round(policy.max_age * 1000)
    if policy.daily_at is not None:
        found[f"daily at {policy.daily_at} UTC"] = (
            _last_daily(policy.daily_at, now_ms) - 1
        )
    past = [at for at in policy.at if _ms(at) <= now_ms]
    if past:
        found[f"at {max(past).isoformat()}"] = _ms(max(past)) - 1
    return found


def _due(
    session: Session, policies: Policies, rules: Mapping[str, int], now_ms: int
) -> Mapping[tuple[int, str], set[str]]:
    """Key ids that are due, by model and reason; some at a time."""
    policy = policies.rotation
    latest = max(rules.values(), default=-1)
    found: dict[tuple[int, str], set[str]] = defaultdict(set)
    blocks: dict[int, tuple[int, int] | None] = {}
    for row in session.execute(_primaries(latest, policy.max_images, now_ms)):
        key = _Primary(*row)
        if key.model_id not in blocks:
            blocks[key.model_id] = _block(session, policies, key.model_id)
        if blocks[key.model_id] != (key.patch_size, key.channels):
            continue
        found[key.model_id, _reason(policy, rules, key)].add(key.key_id)
        if sum(map(len, found.values())) == AT_ONCE:
            break
    return found


def _reason(policy: RotationPolicy, rules: Mapping[str, int], key: _Primary) -> str:
    for why, moment_ms in rules.items():
        if key.newest_ms <= moment_ms:
            return why
    return f"{policy.max_images} images or more"


def _block(
    session: Session, policies: Policies, model_id: int
) -> tuple[int, int] | None:
    """What keys must fit; None: nothing is issued of this model."""
    model = session.get_one(Model, model_id)
    try:
        gate.require_issuable(session, policies, model.name)
        return keys.block(session, model)
    except KeymixerError:
        return None


def _primaries(
    latest_ms: int, max_images: int | None, now_ms: int
) -> Select[str, int, int, int, int, int]:
    """Keys in use that nothing hinders, and whose time or use is over."""
    other = aliased(KeyVersion)
    newest = (
        select(func.max(other.created_at_ms))
        .where(other.key_pk == Key.id)
        .correlate(Key)
        .scalar_subquery()
    )
    begun = exists().where(
        other.key_pk == Key.id,
        other.version > KeyVersion.version,
        or_(other.state.not_in(_ENDED), other.created_at_ms > now_ms - COOL_DOWN_MS),
    )
    over = newest <= latest_ms
    if max_images is not None:
        over = or_(over, and_(KeyVersion.images_used >= max_images, ~begun))
    granted = exists().where(
        Grant.owner_party_id == Key.owner_party_id,
        Grant.model_id == Key.model_id,
        Grant.revoked_at_ms.is_(None),
    )
    return (
        select(
            Key.key_id,
            Key.model_id,
            Key.patch_size,
            Key.channels,
            newest,
            KeyVersion.images_used,
        )
        .join(KeyVersion.key)
        .join(Key.owner)
        .where(KeyVersion.is_primary, KeyVersion.state == KeyState.ACTIVE)
        .where(Party.state == PartyState.ACTIVE, granted, ~_under_way(), over)
        .order_by(Key.id)
    )


def _under_way() -> ColumnElement[bool]:
    return exists().where(
        Job.subject == "key:" + Key.key_id,
        Job.kind.in_((Kind.CREATE, Kind.ROTATE)),
        Job.state.in_(jobs.OPEN),
        Job.step != Step.OVERLAP,
    )


def _last_daily(text: str, now_ms: int) -> int:
    """The newest moment of that time of day that has passed."""
    now = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    hour, minute = map(int, text.split(":"))
    moment = datetime.combine(now.date(), time(hour, minute), tzinfo=UTC)
    return _ms(moment if moment <= now else moment - timedelta(days=1))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)

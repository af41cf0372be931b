"""The life of every key version, as the audit log tells it: which state, from when.

Any record about a key version says the state that it left it in, so nothing here knows
which kinds of records there are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from orchestrator.registry.lifecycle import USABLE, KeyState

Body = Mapping[str, Any]

_STATES: Final = frozenset(KeyState)


class VersionName(NamedTuple):
    """Names one key version."""

    key_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Stay:
    """A time in one state, in milliseconds since the epoch; None: it has not ended."""

    state: KeyState
    from_ms: int
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """One key version's states, in their order; `owner` is an organisation."""

    name: VersionName
    owner: str
    stays: tuple[Stay, ...]

    @property
    def born_ms(self) -> int:
        """When it was created."""
        return self.stays[0].from_ms

    @property
    def ended_ms(self) -> int | None:
        """Since when no request may be answered under it any more; None: one may."""
        ends = [stay.to_ms for stay in self.stays if stay.state in USABLE]
        return ends[-1] if ends else None

    @property
    def live_ms(self) -> int | None:
        """Since when requests are answered under it; None: they never were."""
        begins = (s.from_ms for s in self.stays if s.state == KeyState.ACTIVE)
        return next(begins, None)


@dataclass(frozen=True, slots=True)
class Succession:
    """One rotation: from the successor's creation until the former version is refused.

    `end_ms` is None while the former version is still answered.
    """

    owner: str
    name: VersionName
    begin_ms: int
    live_ms: int
    end_ms: int | None


def lives(bodies: Iterable[Body]) -> list[Life]:
    """The lives of all key versions, by owner and version.

    Args:
        bodies: the log's records, in the log's order.
    """
    owners: dict[VersionName, str] = {}
    seen: dict[VersionName, list[tuple[KeyState, int]]] = {}
    for body in bodies:
        name, state = version_named(body), state_said(body)
        if name is None or state is None:
            continue
        owners.setdefault(name, organisation(body["subject"]["owner"]))
        changes = seen.setdefault(name, [])
        if not changes or changes[-1][0] != state:
            changes.append((state, body["time_ms"]))
    found = [Life(name, owners[name], _stays(seen[name])) for name in seen]
    return sorted(found, key=lambda life: (life.owner, life.name))


def successions(found: Iterable[Life], since_ms: float) -> list[Succession]:
    """The rotations that began at `since_ms` or later and reached the owner's requests.

    A key that is drawn after the one before it had ended is none: nothing succeeded.
    """
    by_name = {life.name: life for life in found}
    rotations = []
    for (key_id, version), life in by_name.items():
        former = by_name.get(VersionName(key_id, version - 1))
        if former is None or life.live_ms is None or life.born_ms < since_ms:
            continue
        if former.ended_ms is None or former.ended_ms >= life.live_ms:
            times = (life.born_ms, life.live_ms, former.ended_ms)
            rotations.append(Succession(life.owner, life.name, *times))
    return rotations


def version_named(body: Body) -> VersionName | None:
    """The key version a record is about, if it is about one."""
    subject = body["subject"]
    try:
        return VersionName(str(subject["key_id"]), int(subject["key_version"]))
    except (KeyError, ValueError):
        return None


def state_said(body: Body) -> KeyState | None:
    """The state that a record says its key version is in, if it says so."""
    state = body["subject"].get("state")
    return KeyState(state) if state in _STATES else None


def organisation(spiffe_id: str) -> str:
    """`spiffe://<federation>/<organisation>/<role>` -> organisation."""
    return spiffe_id.split("/")[-2]


def between(life: Life, begin_ms: float, end_ms: float) -> Iterator[Stay]:
    """The stays of a life within a time, cut to it."""
    for stay in life.stays:
        first = max(stay.from_ms, begin_ms)
        last = min(end_ms if stay.to_ms is None else stay.to_ms, end_ms)
        if first < last:
            yield Stay(stay.state, round(first), round(last))


def _stays(changes: Sequence[tuple[KeyState, int]]) -> tuple[Stay, ...]:
    ends = [*(at_ms for _, at_ms in changes[1:]), None]
    return tuple(
        Stay(state, from_ms, to_ms)
        for (state, from_ms), to_ms in zip(changes, ends, strict=True)
    )

"""How far keys have come, from the audit log: when each passed which point of its life.

The log's own times, in milliseconds since the epoch, are the measurement.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol


class Milestone(NamedTuple):
    """A point of a key version's life: the word for it, and the record that says it."""

    word: str
    kind: str
    version: int


FIRST: Final = 1
NEXT: Final = 2

# In the order in which every key passes them.
CREATION: Final = (
    Milestone("created", "key.created", FIRST),
    Milestone("drawn", "key.drawn", FIRST),
    Milestone("delivered", "key.confirmed", FIRST),
    Milestone("prepared", "issued.prepared", FIRST),
    Milestone("activated", "key.activated", FIRST),
)
ROTATION: Final = (
    Milestone("requested", "key.created", NEXT),
    Milestone("drawn", "key.drawn", NEXT),
    Milestone("delivered", "key.confirmed", NEXT),
    Milestone("prepared", "issued.prepared", NEXT),
    Milestone("activated", "key.activated", NEXT),
    Milestone("old_refused", "key.expired", FIRST),
    Milestone("old_deleted", "issued.gone", FIRST),
    Milestone("old_destroyed", "key.destroyed", FIRST),
)


class LogEntry(Protocol):
    """A record of the log."""

    @property
    def index(self) -> int: ...

    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Passage:
    """When the keys passed a milestone, in seconds after the first had the first.

    `seconds` is how much later the last key passed it than the last key the milestone
    before: of all milestones together they add up to the whole.
    """

    word: str
    first_s: float
    last_s: float
    seconds: float


@dataclass(slots=True)
class Journal:
    """The records seen so far.

    `records` is how many the log holds, `stuck` names a job that needs an operator.
    """

    records: int = 0
    stuck: str = ""
    _passed: dict[tuple[str, int], dict[str, int]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def read(self, entries: Iterable[LogEntry]) -> None:
        """Note what is new: entries from index `records` on."""
        for entry in entries:
            self.records = entry.index + 1
            body = json.loads(entry.body)
            if body["kind"] == "job.needs_operator":
                self.stuck = json.dumps(body["subject"])
            self._note(body["kind"], body["time_ms"], body["subject"])

    def count(self, milestone: Milestone) -> int:
        """How many keys have passed it."""
        return len(self._times(milestone))

    def passages(self, milestones: Iterable[Milestone]) -> list[Passage]:
        """When the keys passed each of them; those nobody has passed are left out."""
        passed = [(m, self._times(m).values()) for m in milestones if self._times(m)]
        if not passed:
            return []
        start = before = min(passed[0][1])
        found = []
        for milestone, times in passed:
            # No key is ahead of itself, so the last one never passes earlier.
            last = max(before, *times)
            found.append(
                Passage(
                    milestone.word,
                    first_s=(min(times) - start) / 1000,
                    last_s=(last - start) / 1000,
                    seconds=(last - before) / 1000,
                )
            )
            before = last
        return found

    def _note(self, kind: str, time_ms: int, subject: Mapping[str, object]) -> None:
        key_id, version = subject.get("key_id"), subject.get("key_version")
        if isinstance(key_id, str) and isinstance(version, int):
            # A key that had two models issued passes when the last one has.
            self._passed[kind, version][key_id] = time_ms

    def _times(self, milestone: Milestone) -> dict[str, int]:
        return self._passed.get((milestone.kind, milestone.version), {})

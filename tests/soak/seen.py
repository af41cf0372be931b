"""What the callers of a run have seen: endings, answers, surprises."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from parties.data_owner.answers import Receipt
from tests.soak.traffic import NO_ROOM, Ending, Traffic

# A machine that stands still for seconds makes nobody late.
_SLACK_S: Final = 10.0
_TOLD: Final = 20


@dataclass(slots=True)
class Seen:
    """Many threads may add to it."""

    endings: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    # What must not be; only the first ones are told in words.
    surprises: int = 0
    told: list[str] = field(default_factory=list)
    # Kinds of traffic that found no room, though they flood nobody, and how often.
    crowded: Counter[str] = field(default_factory=Counter)
    _adding: Lock = field(default_factory=Lock)

    def turn(self, traffic: Traffic, endings: Iterable[Ending], took_s: float) -> None:
        """Count what one turn brought."""
        with self._adding:
            for ending in endings:
                self._count(traffic, ending)
            before_s = self.slowest_s.get(traffic.name, 0.0)
            self.slowest_s[traffic.name] = max(before_s, took_s)
            if took_s > traffic.within_s + _SLACK_S:
                self._tell(f"{traffic.name}: a turn took {took_s:.1f} s")

    def surprise(self, traffic: Traffic, error: BaseException) -> None:
        """Count what no turn should raise."""
        with self._adding:
            self._tell(f"{traffic.name}: {type(error).__name__}: {error}")

    def total(self) -> tuple[int, int, int]:
        """How many requests ended, were answered, and surprised."""
        with self._adding:
            ended = sum(counts.total() for counts in self.endings.values())
            return ended, len(self.receipts), self.surprises

    def _count(self, traffic: Traffic, ending: Ending) -> None:
        counts = self.endings.setdefault(traffic.name, Counter())
        counts[ending.kind or "answered"] += 1
        if ending.receipt is not None:
            self.receipts.append(ending.receipt)
        if ending.kind in traffic.expected:
            return
        if ending.kind == NO_ROOM:
            self.crowded[traffic.name] += 1
        else:
            self._tell(f"{traffic.name}: {ending.kind}")

    def _tell(self, what: str) -> None:
        self.surprises += 1
        if len(self.told) < _TOLD:
            self.told.append(what[:300])

"""Steps whose peer was away: who may try them again."""

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Doubts:
    """Steps whose peer was away last time: one job at a time tries them again.

    So that a peer that hangs, with a thousand jobs waiting for it, holds up nobody who
    waits for another. Nothing of it need survive a restart.
    """

    _steps: set[str] = field(default_factory=set)
    _trying: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def barred(self, most: int) -> set[str]:
        """Steps that no further job should try now.

        Args:
            most: How many doubtful steps may be tried at the same time.
        """
        with self._lock:
            return set(self._steps if len(self._trying) >= most else self._trying)

    def enter(self, step: str) -> bool:
        """Begin a step; False if it is doubtful and tried already."""
        with self._lock:
            if step not in self._steps:
                return True
            if step in self._trying:
                return False
            self._trying.add(step)
            return True

    def leave(self, step: str, *, peer_was_away: bool) -> None:
        """Note how the step went."""
        with self._lock:
            self._trying.discard(step)
            if peer_was_away:
                self._steps.add(step)
            else:
                self._steps.discard(step)

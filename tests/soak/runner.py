"""Put every kind of traffic on a site at once, for a while, with two rests in it."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final

from tests.soak.seen import Seen
from tests.soak.site import Site
from tests.soak.traffic import Traffic

_TELL_EVERY_S: Final = 10.0
# Longer than any turn may take.
_LAST_TURN_S: Final = 120.0
_PAUSE_S: Final = 1.0
# Of the whole time: when everybody is warm, and at the end.
_RESTS_AT: Final = (0.25, 1.0)


@dataclass(slots=True)
class Runner:
    """One thread for each caller of each kind.

    Under load a server holds what is under way, which is more or less by chance: what
    it keeps shows at rest, when nobody has asked for `rest_s`: once early and
    once at the end, inside of `resting`.
    """

    site: Site
    traffics: Sequence[Traffic]
    rest_s: float = 0.0
    resting: Callable[[], AbstractContextManager[None]] = nullcontext
    seen: Seen = field(default_factory=Seen)
    _over: Event = field(default_factory=Event)
    _going: Event = field(default_factory=Event)

    def run(self, seconds: float, tell: Callable[[str], None]) -> Seen:
        """Let them take turns for so long, and end the last ones.

        `tell` is given a line of progress every ten seconds.
        """
        threads = [
            Thread(target=self._call, args=(each, number), daemon=True, name=each.name)
            for each in self.traffics
            for number in range(each.callers)
        ]
        for thread in threads:
            thread.start()
        done = 0.0
        for part in _RESTS_AT:
            self._going.set()
            self._wait(time.monotonic() + seconds * (part - done), tell)
            self._going.clear()
            with self.resting():
                time.sleep(self.rest_s)
            done = part
        self._over.set()
        self._going.set()
        self._join(threads)
        return self.seen

    def _wait(self, until_s: float, tell: Callable[[str], None]) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _TELL_EVERY_S))
            self.site.stage.running.check()
            ended, answered, surprises = self.seen.total()
            left_s = max(0.0, until_s - time.monotonic())
            tell(
                f"{left_s:4.0f} s to a rest: {ended:,} ended, {answered:,} answered, "
                f"{surprises} surprises"
            )

    def _join(self, threads: Sequence[Thread]) -> None:
        until_s = time.monotonic() + _LAST_TURN_S
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        for thread in threads:
            if thread.is_alive():
                error = TimeoutError("its last turn does not end")
                kind = next(t for t in self.traffics if t.name == thread.name)
                self.seen.surprise(kind, error)

    def _call(self, traffic: Traffic, number: int) -> None:
        while not self._over.is_set():
            try:
                self._take_turns(traffic, number)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                self.seen.surprise(traffic, error)
                self._over.wait(_PAUSE_S)

    def _take_turns(self, traffic: Traffic, number: int) -> None:
        with traffic.opened(self.site, number) as turn:
            while not self._over.wait(traffic.pause_s):
                self._going.wait()
                if self._over.is_set():
                    return
                began_s = time.monotonic()
                endings = turn()
                self.seen.turn(traffic, endings, time.monotonic() - began_s)

"""Owners that ask without pause, each in a process of its own."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from core.errors import Unavailable
from orchestrator.simulation.processes import Event
from orchestrator.simulation.setup import Stage, acts_of, ask_owner

# How long anything that is waited for may take.
WAIT_S: Final = 180.0
_POLL_S: Final = 0.2
_ACT: Final = "traffic"


class TooSlow(Unavailable):
    """What the scenario waits for did not happen."""

    hint = "read the logs of the run"


@dataclass
class Crowd:
    """The owners that ask, how many requests each has made so far, and who answered."""

    stage: Stage
    on_progress: Callable[[float, float | None], None]
    made: Counter[str] = field(default_factory=Counter)
    # Each owner's answers by the version of the model that gave them, in digits.
    answered: dict[str, Mapping[str, int]] = field(default_factory=dict)
    _asks: dict[str, Future[list[Event]]] = field(default_factory=dict)

    def join(self, owner: str, batch: int, pool: ThreadPoolExecutor) -> None:
        """Let one more owner ask."""
        files = self.stage.traffic.setdefault(owner, [])
        folder = self.stage.workspace.owner_folder(owner)
        out = folder / f"traffic-{len(files) + 1}.ndjson"
        files.append(out)
        arguments = (
            *("--images", str(folder / "images.npz")),
            *("--out", str(out), "--batch", str(batch)),
        )
        self._asks[owner] = pool.submit(
            ask_owner,
            self.stage,
            owner,
            _ACT,
            *arguments,
            on_event=lambda event: self._follow(owner, event),
        )

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Wait while everybody goes on asking.

        Raises:
            TooSlow: it was not done in time.
            ProcessFailed: a party ended by itself.
        """
        deadline = time.monotonic() + WAIT_S
        while not done():
            if time.monotonic() > deadline:
                raise TooSlow(f"not within {WAIT_S:.0f} s: {what}")
            self._require_asking()
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Tell everybody to stop, and wait until the last line is written."""
        for owner in self._asks:
            self.stage.running.terminate(f"{owner}-{_ACT}")
        for ask in self._asks.values():
            ask.result()

    def _follow(self, owner: str, event: Event) -> None:
        if event["event"] in {"progress", "done"}:
            self.made[owner] = event["requests"]
            self.answered[owner] = event["model_versions"]
            self.on_progress(self.made.total(), None)

    def _require_asking(self) -> None:
        for owner, ask in self._asks.items():
            if ask.done():
                ask.result()
                raise Unavailable(f"{owner} stopped asking by itself")
        self.stage.running.check()


@contextmanager
def asking(stage: Stage, owners: Sequence[str], batch: int) -> Iterator[Crowd]:
    """Owners that have begun to ask when this is entered, and stop when it is left."""
    with (
        acts_of(stage, len(owners)) as pool,
        stage.narrator.bar("requests") as bar,
    ):
        crowd = Crowd(stage, bar)
        for owner in owners:
            crowd.join(owner, batch, pool)
        crowd.wait(lambda: all(crowd.made[owner] for owner in owners), "first answers")
        yield crowd
        crowd.end()

"""Who and what may be served: a copy of the registry's word, refused once it is old.

A party that cannot reach the orchestrator cannot learn that a key was revoked. It may
go on with what it last heard, but only for a time that is configured: then it serves
nobody, until it has heard again.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Final, TypeAlias

from core.errors import (
    ConfigurationError,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    Unavailable,
)
from protos import registry_pb2 as pb

log = logging.getLogger(__name__)

MAX_STALENESS_S: Final = 5.0
POLL_S: Final = 0.2

_MAY_COME_INTO_USE: Final = frozenset({"pre_active", "suspended"})

# Gives what changed since a revision; 0: all that a newcomer must know.
Ask: TypeAlias = Callable[[int], pb.ListStandingResponse]


class StandingUnknownError(Unavailable):
    """The party does not know, or no longer, who and what may be served."""

    hint = "the party asked cannot reach the orchestrator; try again when it can"


@dataclass(frozen=True, slots=True)
class _Copy:
    """What the registry said. It is never changed: a newer one takes its place."""

    revision: int
    # When it was asked for, on the monotonic clock: what it says is as old as that.
    asked_at_s: float
    # The state of each party, and of each key version (key id, version).
    parties: Mapping[str, str]
    keys: Mapping[tuple[str, int], pb.KeyStanding]


class Standing:
    """Looks several times a second; many threads may ask it meanwhile.

    Args:
        ask: Asks the registry.
        max_staleness_s: After so long without an answer nobody is served.
        at_first: Must succeed before anything is known; for what a server has to
            compare with the registry before it serves at all.
        clock: Seconds, monotonic.
        now_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        ask: Ask,
        max_staleness_s: float = MAX_STALENESS_S,
        *,
        at_first: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._ask = ask
        self._max_staleness_s = max_staleness_s
        self._at_first = at_first
        self._clock = clock
        self._now_ms = now_ms
        self._copy: _Copy | None = None
        # One look at a time: a slower, older answer must not replace a newer one.
        self._looking = Lock()

    def is_fresh(self) -> bool:
        """Whether what is known is recent enough to serve by."""
        copy = self._copy
        return copy is not None and self._is_fresh(copy)

    def refuse_revoked(self, spiffe_id: str) -> None:
        """Raise `NotAllowedError` if the party is known to be revoked.

        However old that knowledge is: nobody comes back from a revocation.
        """
        copy = self._copy
        if copy is not None and copy.parties.get(spiffe_id) == "revoked":
            raise NotAllowedError(f"{spiffe_id} is revoked")

    def require_party(self, spiffe_id: str) -> None:
        """Return if the party may take part.

        Raises:
            NotAllowedError: it was revoked, or is not enrolled.
            StandingUnknownError: the registry has not answered for too long.
        """
        self.refuse_revoked(spiffe_id)
        if self._fresh().parties.get(spiffe_id) != "active":
            raise NotAllowedError(f"{spiffe_id} is not enrolled")

    def require_key(self, key_id: str, version: int) -> None:
        """Return if the key version is active, or retiring and not yet retired.

        Raises:
            KeyRefusedError: it is neither.
            StandingUnknownError: the registry has not answered for too long.
        """
        key = self._fresh().keys.get((key_id, version))
        if key is None:
            raise KeyRefusedError("no such key version is in use")
        if key.state == "retiring" and self._now_ms() >= key.retire_at_ms:
            raise KeyRefusedError("the key version has retired")
        if key.state not in ("active", "retiring"):
            raise KeyRefusedError(f"the key version is {key.state}")

    def learn_key(self, key_id: str, version: int) -> None:
        """Look again at a key version that may have come into use since the last look.

        The owner of a key that was rotated or resumed asks under it at once, which is
        sooner than the next look. Those who ask at the same time share one look.
        """
        key = self._fresh().keys.get((key_id, version))
        if key is not None and key.state not in _MAY_COME_INTO_USE:
            return
        began_s = self._clock()
        with self._looking:
            if self._fresh().asked_at_s <= began_s:
                self._look()

    def look(self) -> None:
        """Ask the registry once, and remember what it says."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        former, asked_at_s = self._copy, self._clock()
        if former is None:
            self._at_first()
        answer = self._ask(former.revision if former else 0)
        if former is not None and answer.revision < former.revision:
            # It was put back to an older state: what we know may never have been.
            former, answer = None, self._ask(0)
        self._copy = _merged(former, answer, asked_at_s)

    @contextmanager
    def kept(self, after_each: Callable[[], None]) -> Iterator[None]:
        """Look again and again on a thread; call `after_each` after each attempt."""
        closing = Event()
        thread = Thread(
            target=self._run, args=(after_each, closing), name="standing", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    def _run(self, after_each: Callable[[], None], closing: Event) -> None:
        while not closing.is_set():
            try:
                self.look()
            except KeymixerError as error:
                log.info("standing", extra={"kind": error.kind, "why": str(error)})
            except Exception:
                # Whatever it was, to stop looking would be to stop serving for good.
                log.exception("standing")
            after_each()
            closing.wait(POLL_S)

    def _fresh(self) -> _Copy:
        copy = self._copy
        if copy is None:
            raise StandingUnknownError("the registry has not answered yet")
        if not self._is_fresh(copy):
            raise StandingUnknownError(
                f"the registry has not answered for {self._max_staleness_s:g} s"
            )
        return copy

    def _is_fresh(self, copy: _Copy) -> bool:
        return self._clock() - copy.asked_at_s <= self._max_staleness_s


def take_staleness(settings: Mapping[str, Any]) -> float:
    """Read a party's setting `max_staleness_s`: seconds, above zero."""
    found = settings.get("max_staleness_s", MAX_STALENESS_S)
    if type(found) not in (int, float) or not 0 < found < math.inf:
        raise ConfigurationError(
            f"max_staleness_s: expected seconds above 0, got {found!r}"
        )
    return float(found)


def _merged(
    former: _Copy | None, answer: pb.ListStandingResponse, asked_at_s: float
) -> _Copy:
    parties = {party.spiffe_id: party.state for party in answer.parties}
    keys = {(key.key_id, key.version): key for key in answer.keys}
    if former is None:
        return _Copy(answer.revision, asked_at_s, parties, keys)
    # Mostly nothing has changed: then nothing is copied either.
    return _Copy(
        answer.revision,
        asked_at_s,
        {**former.parties, **parties} if parties else former.parties,
        {**former.keys, **keys} if keys else former.keys,
    )

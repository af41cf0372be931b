"""A party's presence: its public keys registered, and its health told truthfully."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Final

from core.errors import KeymixerError
from parties.log_watch import LogWatch
from parties.registry import Registry, active_party
from parties.standing import Standing, StandingUnknownError

log = logging.getLogger(__name__)

_AT_FIRST_S: Final = 0.1
_LATER_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What a party registers: Ed25519, 32 bytes, and its HPKE key or nothing."""

    signing: bytes
    sealing: bytes = b""


class Presence:
    """Registers the keys, if it has any; then asks every two seconds if all is well.

    Ready means: the registry answers, holds these keys, and calls the party active.
    """

    def __init__(
        self, registry: Registry, party: str, keys: PublicKeys | None = None
    ) -> None:
        self._registry = registry
        self._party = party
        self._keys = keys
        self._registered = False
        self._ready = Event()

    def is_ready(self) -> bool:
        return self._ready.is_set()

    @contextmanager
    def kept(self, on_change: Callable[[bool], None]) -> Iterator[None]:
        """Look after it on a thread; tell `on_change` when readiness changes."""
        closing = Event()
        thread = Thread(
            target=self._run, args=(on_change, closing), name="presence", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    def _run(self, on_change: Callable[[bool], None], closing: Event) -> None:
        while not closing.is_set():
            if (ready := self._look()) != self.is_ready():
                log.info("ready" if ready else "no longer ready")
                self._ready.set() if ready else self._ready.clear()
                on_change(ready)
            closing.wait(_LATER_S if ready else _AT_FIRST_S)

    def _look(self) -> bool:
        try:
            self._register_once()
            active_party(self._registry, self._party)
        except KeymixerError as error:
            log.info("not ready", extra={"kind": error.kind, "why": str(error)})
            return False
        return True

    def _register_once(self) -> None:
        if self._keys is not None and not self._registered:
            self._registry.register_public_keys(self._keys.signing, self._keys.sealing)
            self._registered = True


@contextmanager
def attended(
    presence: Presence,
    standing: Standing,
    set_serving: Callable[[bool, str], None],
    log_watch: LogWatch | None = None,
) -> Iterator[None]:
    """Look after them, and be healthy while all is well with each of them."""
    telling, told = Lock(), "not asked yet"

    def tell() -> None:
        nonlocal told
        # Two threads come here: whoever is second must know what both found.
        with telling:
            why = _why_not(presence, standing, log_watch)
            if why != told:
                log.info("not serving" if why else "serving", extra={"why": why})
                set_serving(not why, why)
                told = why

    with ExitStack() as stack:
        stack.enter_context(standing.kept(tell))
        stack.enter_context(presence.kept(lambda _: tell()))
        if log_watch is not None:
            stack.enter_context(log_watch.kept(tell))
        yield


def _why_not(presence: Presence, standing: Standing, log_watch: LogWatch | None) -> str:
    """What is in the way of serving; empty: nothing."""
    if log_watch is not None and log_watch.why_away:
        return log_watch.why_away
    if not standing.is_fresh():
        return StandingUnknownError.hint
    return "" if presence.is_ready() else "the registry does not know this party"

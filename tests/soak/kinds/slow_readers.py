"""Owners that ask for much, and stop reading."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from core.encoding import UINT8
from tests.partitioned.proxy import network_to
from tests.soak.site import Owner, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, always, ended

# Together their answers are more than HTTP/2 lets a server send unread.
_CALLS = 12
_IMAGES = 200
_STALLED_S = 2.0
_AGAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class SlowReaders:
    """Half of the calls have a deadline, the others wait until the caller hangs up.

    A connection that is read again serves on.
    """

    name: str = "slow readers"
    callers: int = 2
    pause_s: float = 0.5
    within_s: float = _STALLED_S + _AGAIN_S
    expected: frozenset[str] = frozenset({ANSWERED, "Unread"})

    def opened(self, site: Site, caller: int) -> AbstractContextManager[Turn]:
        owner = site.calm[caller % len(site.calm)]
        return always(lambda: _turn(site, owner))


def _turn(site: Site, owner: Owner) -> Iterable[Ending]:
    with network_to(*site.address) as network:
        host, port = network.listener.getsockname()
        with line(site, owner, f"{host}:{port}") as connected:
            first = ended(lambda: connected.ask(owner.question(1)))
            network.cut_answers()
            asked = [
                connected.stub.ModelInfer.future(
                    owner.question(_IMAGES, UINT8).request,
                    timeout=_STALLED_S if number % 2 else None,
                )
                for number in range(_CALLS)
            ]
            time.sleep(_STALLED_S)
            unread = [Ending("Unread") for each in asked if each.cancel()]
            network.heal()
            return [
                first,
                *unread,
                ended(lambda: connected.ask(owner.question(1), _AGAIN_S)),
            ]

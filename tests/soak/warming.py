"""Before memory is compared: as many threads as a server may come to have begun.

A thread begins when more calls run at once than ever before, and does not end; each
holds some 160 KiB. Left to chance, that goes on for as long as a soak takes.
"""

from contextlib import ExitStack
from typing import Final

from tests.soak.site import DEADLINE_S, WAITING_EACH, Site, line

_TIMES: Final = 3
_AT_ONCE: Final = 2 * WAITING_EACH
_IMAGES: Final = 64


def warm_up(site: Site) -> None:
    """Every owner but the greedy one asks more at once than may wait."""
    with ExitStack() as stack:
        lines = [stack.enter_context(line(site, each)) for each in site.owners[:-1]]
        for _ in range(_TIMES):
            calls = [
                each.stub.ModelInfer.future(
                    each.owner.question(_IMAGES).request, timeout=DEADLINE_S
                )
                for each in lines
                for _ in range(_AT_ONCE)
            ]
            for call in calls:
                # It waits, and does not raise: some find no room.
                call.exception()

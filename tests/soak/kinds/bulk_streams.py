"""Owners that ask over a stream, and some that leave in the middle of it."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from parties.data_owner.bulk import predict_many
from parties.data_owner.client import Client, open_client
from parties.data_owner.inference import Pixels
from tests.soak.site import DEADLINE_S, Site
from tests.soak.traffic import ANSWERED, Ending, Turn

_REQUESTS = 20
_IMAGES = 4


@dataclass(frozen=True, slots=True)
class BulkStreams:
    """Every second turn, roughly, is broken off."""

    name: str = "bulk streams"
    callers: int = 2
    pause_s: float = 0.2
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        owner = site.calm[caller % len(site.calm)]
        with open_client(owner.folder) as client:
            yield lambda: _turn(client, site.pixels)


def _turn(client: Client, pixels: Pixels) -> Iterable[Ending]:
    starts = range(0, _REQUESTS * _IMAGES, _IMAGES)
    batches = (pixels[at : at + _IMAGES] for at in starts)
    wanted = random.choice((_REQUESTS, random.randrange(1, _REQUESTS)))
    answers = predict_many(client, batches)
    return [Ending(receipt=each.receipts[0]) for each in islice(answers, wanted)]

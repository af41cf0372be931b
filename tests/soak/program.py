"""All kinds of traffic that a server is to bear at once."""

from collections.abc import Sequence
from typing import Final

from core.errors import ConfigurationError
from tests.soak.kinds.bulk_streams import BulkStreams
from tests.soak.kinds.cancelled import Cancelled
from tests.soak.kinds.floods import Floods
from tests.soak.kinds.fresh_connections import FreshConnections
from tests.soak.kinds.greedy import Greedy
from tests.soak.kinds.half_open import HalfOpen
from tests.soak.kinds.hurried import Hurried
from tests.soak.kinds.malformed import Malformed
from tests.soak.kinds.mixed_sizes import MixedSizes
from tests.soak.kinds.slow_readers import SlowReaders
from tests.soak.kinds.strangers import Strangers
from tests.soak.kinds.wrong_keys import WrongKeys
from tests.soak.traffic import Traffic

EVERYTHING: Final[Sequence[Traffic]] = (
    MixedSizes(),
    FreshConnections(),
    BulkStreams(),
    WrongKeys(),
    Malformed(),
    Cancelled(),
    Hurried(),
    Greedy(),
    Floods(),
    Strangers(),
    HalfOpen(),
    SlowReaders(),
)


def kinds(names: str) -> Sequence[Traffic]:
    """Those that are named, with commas between; no name: all."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = wanted - {each.name for each in EVERYTHING}
    if unknown:
        known = ", ".join(each.name for each in EVERYTHING)
        raise ConfigurationError(f"expected some of {known}; got {unknown}")
    return [each for each in EVERYTHING if not wanted or each.name in wanted]

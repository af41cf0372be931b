"""Python's collector of cycles, in a server that stays."""

import gc
from typing import Final

# By default every 700 new objects are looked at, which is every second or third answer.
_YOUNG: Final = 20_000
_MIDDLE: Final = 20
_OLD: Final = 20


def collect_seldom() -> None:
    """Leave alone what the start has made, and look for new cycles more seldom.

    For a process that has begun to serve: call it once, when everything is loaded.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)

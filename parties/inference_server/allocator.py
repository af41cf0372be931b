"""How the C library keeps the memory that threads gave back."""

import ctypes
import logging
from typing import Final

log = logging.getLogger(__name__)

# `M_ARENA_MAX` in glibc's malloc.h.
_ARENA_MAX: Final = -8
_FEW: Final = 2


def keep_few_arenas() -> bool:
    """Have glibc's threads share their free memory; returns if it could be told so.

    By default it gives threads up to eight arenas a processor, and each keeps what it
    once needed. A server answers on hundreds of threads, any of which may decode a
    large request: after ten minutes of mixed load it held 15 % more than when it was
    warm, and still grew. It must be told before the threads begin. Other C libraries
    have no such thing.
    """
    try:
        told: int = ctypes.CDLL(None).mallopt(_ARENA_MAX, _FEW)
    except (AttributeError, OSError):
        told = 0
    if not told:
        log.info("the allocator keeps its own counsel")
    return bool(told)

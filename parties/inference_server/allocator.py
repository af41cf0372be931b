"""How the C library keeps the memory that threads gave back."""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

log = logging.getLogger(__name__)

# `M_ARENA_MAX` in glibc's malloc.h.
_ARENA_MAX: Final = -8
_FEW: Final = 2
# Seldom enough that the pages that are asked for again cost nothing to speak of.
_PAUSE_S: Final = 10.0


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


@contextmanager
def giving_back(pause_s: float = _PAUSE_S) -> Iterator[None]:
    """Have glibc give free memory back to the system, now and then.

    By itself it keeps what lies below anything still in use: after large requests that
    is hundreds of MiB, more or less by chance, in which no leak could be seen.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        yield
        return
    ended = Event()

    def keep_trimming() -> None:
        while not ended.wait(pause_s):
            trim(0)

    thread = Thread(target=keep_trimming, name="giving-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

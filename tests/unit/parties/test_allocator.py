"""The allocator is told where it listens, and left alone where it does not."""

import ctypes
import platform
import subprocess
import sys

import pytest

from parties.inference_server.allocator import keep_few_arenas

# Threads that hold some memory at the same time, and what glibc says of its arenas.
_COUNT = """
import ctypes, sys, threading
from parties.inference_server.allocator import keep_few_arenas
if sys.argv[1] == "few":
    assert keep_few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
def hold():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
sys.stderr.flush()
libc.malloc_stats()
"""

glibc_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas"
)


def arenas(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True
    )
    return done.stderr.count("Arena ")


@glibc_only
def test_threads_share_two_arenas() -> None:
    assert arenas("many") > 2
    assert arenas("few") <= 2


def test_a_library_without_arenas_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())

    assert not keep_few_arenas()

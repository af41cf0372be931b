"""The allocator is told where it listens, and left alone where it does not."""

import ctypes
import platform
import subprocess
import sys

import pytest

from parties.inference_server.allocator import giving_back, keep_few_arenas

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

# Memory that was freed below some that is still held stays, until it is given back.
_TRIM = """
import gc, os, sys, time
from parties.inference_server.allocator import giving_back
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
begun = held()
blocks = [bytes(60_000) for _ in range(2000)]
blocks = blocks[-1:]
gc.collect()
assert held() > begun + 50, (begun, held())
with giving_back(0.01):
    for _ in range(1000):
        if held() < begun + 20:
            break
        time.sleep(0.01)
    else:
        sys.exit(f"{begun} MiB, then {held()}")
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


@glibc_only
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRIM], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_a_library_without_arenas_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())

    assert not keep_few_arenas()
    with giving_back():
        pass

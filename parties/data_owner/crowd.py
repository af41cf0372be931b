"""Many owners in one process, for measuring: each its own folder, keys and channels.

A few threads take one owner after the other, so that few channels are open at once.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Final, Protocol

from core.errors import PeerUnavailable
from parties.data_owner.errors import KeyNotReadyError
from protos.registry_pb2 import KeyVersion

_POLL_S: Final = 0.2


class Owner(Protocol):
    """What of an owner's client the crowd uses."""

    def register(self) -> None:
        """Register the owner's public keys."""
        ...

    def key_versions(self) -> list[KeyVersion]:
        """The owner's key versions that can be fetched."""
        ...

    def obtain(self, version: KeyVersion) -> None:
        """Fetch and prove one key version."""
        ...


Open = Callable[[Path], AbstractContextManager[Owner]]


@dataclass(frozen=True, slots=True)
class Errand:
    """What every owner of the crowd does: wait for a key version, fetch it, prove it.

    `timeout_s` is for each owner, from when its turn comes.
    """

    version: int
    timeout_s: float
    register: bool = False


def run_errands(
    folders: Sequence[Path],
    errand: Errand,
    connect: Open,
    *,
    threads: int,
    on_done: Callable[[int], None],
) -> None:
    """Let every owner do its errand; `on_done` is told how many have.

    Raises:
        KeymixerError: the first failure; owners whose turn has not come do nothing.
    """
    giving_up, done = Event(), _Count(on_done)

    def turn(folder: Path) -> None:
        if giving_up.is_set():
            return
        with connect(folder) as owner:
            if errand.register:
                owner.register()
            if _obtained(owner, folder, errand, giving_up):
                done.one_more()

    with ThreadPoolExecutor(threads, thread_name_prefix="owner") as pool:
        turns = [pool.submit(turn, folder) for folder in folders]
        try:
            wait(turns, return_when=FIRST_EXCEPTION)
        finally:
            giving_up.set()
    for each in turns:
        each.result()


def _obtained(owner: Owner, folder: Path, errand: Errand, giving_up: Event) -> bool:
    """Whether the owner has the key version; not if another owner failed meanwhile."""
    deadline = time.monotonic() + errand.timeout_s
    while not giving_up.is_set():
        why = "it is not drawn yet"
        try:
            for version in owner.key_versions():
                if version.version == errand.version:
                    owner.obtain(version)
                    return True
        except PeerUnavailable as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise KeyNotReadyError(
                f"{folder.name}: no version {errand.version} after "
                f"{errand.timeout_s:g} s: {why}"
            )
        giving_up.wait(_POLL_S)
    return False


class _Count:
    def __init__(self, on_change: Callable[[int], None]) -> None:
        self._on_change = on_change
        self._lock = Lock()
        self._count = 0

    def one_more(self) -> None:
        with self._lock:
            self._count += 1
            self._on_change(self._count)

"""Signs the log while it grows: what a crash leaves behind cannot be cut unseen."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

SIGN_EVERY_S: Final = 1.0

log = logging.getLogger(__name__)


class Signer(Protocol):
    """What is signed: an `AuditLog`, or a test's stand-in."""

    def checkpoint(self) -> bytes:
        """Sign the newest root; one that is signed already is not signed again."""
        ...


@contextmanager
def signing(signer: Signer, every_s: float = SIGN_EVERY_S) -> Iterator[None]:
    """Sign in a thread of its own, every `every_s` seconds, until the context is left.

    So at most what was recorded in the last `every_s` seconds is without a signature.
    """
    stop = threading.Event()
    thread = threading.Thread(
        target=sign_until, args=(signer, stop, every_s), name="signer", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def sign_until(signer: Signer, stop: threading.Event, every_s: float) -> None:
    """Sign again and again until told to stop; no failure ends it."""
    while not stop.wait(every_s):
        try:
            signer.checkpoint()
        except Exception:
            log.exception("the log was not signed")

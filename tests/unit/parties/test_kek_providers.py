"""Key-encryption keys by URL: what is accepted, and what each failure says."""

import base64
import os
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import KeymixerError, StorageError
from parties.key_holder.errors import (
    KekFormatError,
    KekMissingError,
    KekPrivacyError,
    KekProgramError,
    KekUrlError,
)
from parties.key_holder.providers import KeyProgram, provider_at, shown
from tests.unit.parties.strongroom import forms

SECRET = bytes(range(100, 132))
VARIABLE = "KEYMIXER_TEST_KEK"


def fetched(url: str, folder: Path) -> bytes:
    return bytes(provider_at(url, folder).fetch())


def program(folder: Path, body: str) -> str:
    """The URL of a program with this Python body."""
    path = folder / "give-kek"
    path.write_text(f"#!{sys.executable}\nimport sys, os, time\n{body}\n")
    path.chmod(0o700)
    return f"exec:{path}"


def a_file(folder: Path, content: bytes = SECRET, mode: int = 0o600) -> str:
    path = folder / "the.key"
    path.write_bytes(content)
    path.chmod(mode)
    return "file:the.key"


def test_a_file_is_relative_to_the_folder_or_absolute(tmp_path: Path) -> None:
    url = a_file(tmp_path)

    assert fetched(url, tmp_path) == SECRET
    assert fetched(f"file:{tmp_path}/the.key", Path("/nowhere")) == SECRET


def test_a_missing_file_is_made_once_and_for_us_only(tmp_path: Path) -> None:
    provider = provider_at("file:new.key", tmp_path)
    provider.make(lambda: SECRET)
    provider.make(lambda: bytes(32))

    assert provider.fetch() == SECRET
    assert stat.S_IMODE((tmp_path / "new.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("url", [f"env:{VARIABLE}", "exec:/bin/true"])
def test_only_a_file_is_made(tmp_path: Path, url: str) -> None:
    def draw() -> bytes:
        pytest.fail("a key was drawn for somebody else to keep")

    provider_at(url, tmp_path).make(draw)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    url = a_file(tmp_path, mode=mode)

    with pytest.raises(KekPrivacyError, match="0600"):
        fetched(url, tmp_path)


def test_a_file_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be exchanged by that user. Here we are the other one."""
    url = a_file(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(KekPrivacyError, match="another user"):
        fetched(url, tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.key").mkdir(mode=0o700)
    with pytest.raises(StorageError):
        fetched("file:folder.key", tmp_path)
    with pytest.raises(KekFormatError, match="not a file"):
        fetched("file:/dev/null", tmp_path)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_file_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(KekFormatError, match="32 bytes"):
        fetched(a_file(tmp_path, bytes(length)), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        SECRET.hex(),
        SECRET.hex().upper(),
        base64.b64encode(SECRET).decode(),
        SECRET.hex() + "\n",
    ],
)
def test_a_variable_holds_hex_or_base64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)

    assert fetched(f"env:{VARIABLE}", tmp_path) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET.hex()[:-1],
        SECRET.hex()[:-2],
        SECRET.hex() + "00",
        "g" + SECRET.hex()[1:],
        base64.b64encode(SECRET[:-1]).decode(),
        base64.b64encode(SECRET + b"!").decode(),
        base64.b64encode(SECRET).decode()[:-1],
        "é" * 64,
        "\u0661" * 64,
    ],
)
def test_a_variable_that_holds_no_key_is_refused_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(KekFormatError) as caught:
        fetched(f"env:{VARIABLE}", tmp_path)

    assert_untold(caught.value, text.encode())


def test_an_unset_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(KekMissingError, match=VARIABLE):
        fetched(f"env:{VARIABLE}", tmp_path)


RAW = f"sys.stdout.buffer.write(bytes.fromhex('{SECRET.hex()}'))"
HEX = f"print('{SECRET.hex()}')"


@pytest.mark.parametrize("body", [RAW, HEX, f"{HEX}; sys.stderr.write('x' * 10**6)"])
def test_a_program_prints_32_bytes_or_hex(tmp_path: Path, body: str) -> None:
    assert fetched(program(tmp_path, body), tmp_path) == SECRET


def test_a_program_gets_its_arguments_as_they_are_and_no_shell(tmp_path: Path) -> None:
    body = (
        f"assert sys.argv[1:] == ['a b', '$HOME', ';', '*'], sys.argv\n"
        f"assert sys.stdin.read() == ''\n{HEX}"
    )
    url = program(tmp_path, body) + " 'a b' $HOME ';' *"

    assert fetched(url, tmp_path) == SECRET


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (f"{HEX}; sys.stderr.write('{SECRET.hex()}'); sys.exit(3)", KekProgramError),
        (f"{HEX}; sys.stdout.flush(); os.kill(os.getpid(), 9)", KekProgramError),
        (f"{RAW}; print()", KekFormatError),
        (f"print('{SECRET.hex()[:-2]}')", KekFormatError),
        (f"print('z' + '{SECRET.hex()[1:]}')", KekFormatError),
        ("", KekFormatError),
        (f"sys.stdout.write('{SECRET.hex()}' * 10**6)", KeymixerError),
    ],
)
def test_a_program_that_gives_no_key_is_refused_and_not_quoted(
    tmp_path: Path, body: str, error: type[KeymixerError]
) -> None:
    with pytest.raises(error) as caught:
        fetched(program(tmp_path, body), tmp_path)

    assert_untold(caught.value, SECRET)
    assert_untold(caught.value, SECRET.hex()[1:].encode())


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(600)",
        "os.close(1); time.sleep(600)",
        # A child that goes on, and holds the program's stdout open.
        "os.fork() or time.sleep(600)",
    ],
)
def test_a_program_that_does_not_end_is_ended(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its children with it: the pipe that they hold is closed."""
    mark = tmp_path / "children"
    url = program(tmp_path, f"open({str(mark)!r}, 'w').write(str(os.getpid()))\n{body}")
    path = url.removeprefix("exec:")
    start = KeyProgram._started

    def started(asked: KeyProgram) -> "subprocess.Popen[bytes]":
        """Its time begins when it runs, however long that takes here."""
        process = start(asked)
        assert became(lambda: mark.exists() and mark.read_text() != "")
        return process

    monkeypatch.setattr(KeyProgram, "_started", started)
    with pytest.raises(KekProgramError, match="did not end within"):
        KeyProgram((path,), timeout_s=0.5).fetch()

    group = int(mark.read_text())
    assert ended(lambda: os.killpg(group, 0))


def ended(probe: Callable[[], None]) -> bool:
    """Whether a group of processes is gone; init may take a moment to bury it."""

    def gone() -> bool:
        try:
            probe()
        except ProcessLookupError:
            return True
        return False

    return became(gone)


def became(what: Callable[[], bool]) -> bool:
    """Whether it is so within a minute."""
    for _ in range(1200):
        if what():
            return True
        time.sleep(0.05)
    return False


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KekMissingError, match="/no/such/program"):
        fetched("exec:/no/such/program", tmp_path)


def test_a_program_that_cannot_be_started_is_typed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program")

    with pytest.raises(KekProgramError, match="cannot be started"):
        fetched(f"exec:{tmp_path}/text", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "kek.key",
        "file:",
        "file:nul\0l",
        "env:",
        "env:NOT A NAME",
        "env:A=B",
        f"env:{'A' * 64}",
        "exec:",
        "exec:relative/path",
        "exec:sh -c id",
        "exec:/bin/sh 'open",
        "vault:transit/keys/kek",
        SECRET.hex(),
    ],
)
def test_what_is_no_url_of_a_key_is_refused_and_not_quoted(
    tmp_path: Path, url: str
) -> None:
    """Somebody may have put the key itself there."""
    with pytest.raises(KekUrlError) as caught:
        provider_at(url, tmp_path)

    if len(url) > len("exec:/bin/sh"):
        assert url not in str(caught.value)


def test_arguments_of_a_program_are_not_shown() -> None:
    assert shown("exec:/usr/bin/vault read token=s3cret") == "exec:/usr/bin/vault"
    assert shown("file:my kek.key") == "file:my kek.key"


def test_every_failure_says_what_to_do() -> None:
    for error in (
        KekFormatError,
        KekMissingError,
        KekPrivacyError,
        KekProgramError,
        KekUrlError,
    ):
        assert error.hint


def assert_untold(error: BaseException, secret: bytes) -> None:
    """Neither the message nor anything that it came from quotes the secret."""
    said = "".join(traceback.format_exception(error)).encode()
    if len(secret) > 8:
        for form in forms(secret):
            assert form not in said

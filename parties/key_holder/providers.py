"""Where key-encryption keys come from, by URL: a file, a variable, a program.

    file:kek.key                 32 bytes; relative to the key holder's folder
    env:KEYMIXER_KEK             64 hex digits, or base64 of 32 bytes
    exec:/usr/bin/vault-key a b  32 bytes or 64 hex digits on stdout; no shell

A URL is kept in the database and in settings.json: it must hold no secret itself.
"""

import base64
import binascii
import os
import re
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Final, Protocol

from core.errors import StorageError
from core.rpc.private_files import ensure_private
from parties.key_holder.at_rest import KEY_BYTES, erase
from parties.key_holder.errors import (
    KekFormatError,
    KekMissingError,
    KekPrivacyError,
    KekProgramError,
    KekUrlError,
)

PROGRAM_TIMEOUT_S: Final = 10.0
_HEX_DIGITS: Final = 2 * KEY_BYTES
# No encoding of a key is longer; what is, is not read to its end.
_LONGEST: Final = 256
# Shorter than a key in hex, which somebody might take for its own name.
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")


class KekProvider(Protocol):
    """Gives one key-encryption key."""

    def fetch(self) -> bytearray:
        """The key, 32 bytes, for the caller to erase."""
        ...

    def make(self, draw: Callable[[], bytes]) -> None:
        """Make the key if there is none, where that is ours to do."""
        ...


def provider_at(url: str, folder: Path) -> KekProvider:
    """The provider that `url` names; `folder` is the key holder's own.

    Raises:
        KekUrlError: for any other URL.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest and "\0" not in rest:
        return KeyFile(folder / rest)
    if scheme == "env" and _VARIABLE.fullmatch(rest):
        return KeyVariable(rest)
    if scheme == "exec":
        return KeyProgram(_arguments(rest))
    # Not quoted: somebody may have put the key itself there.
    raise KekUrlError("expected file:, env: or exec:, and what belongs to it")


def shown(url: str) -> str:
    """The URL for a message: of a program only the path, not its arguments."""
    return url.split(maxsplit=1)[0] if url.startswith("exec:") else url


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of 32 bytes that only its owner, who is us, may read."""

    path: Path

    def fetch(self) -> bytearray:
        try:
            with self.path.open("rb", buffering=0) as file:
                _require_private(os.fstat(file.fileno()), self.path.name)
                return _exactly(bytearray(file.read(KEY_BYTES + 1)), self.path.name)
        except FileNotFoundError:
            raise KekMissingError(f"there is no file {self.path}") from None
        except PermissionError:
            raise KekPrivacyError(f"{self.path} is not ours to read") from None
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from None

    def make(self, draw: Callable[[], bytes]) -> None:
        ensure_private(self.path, draw)


@dataclass(frozen=True, slots=True)
class KeyVariable:
    """An environment variable; somebody else sets it."""

    name: str

    def fetch(self) -> bytearray:
        text = os.environ.get(self.name)
        if text is None:
            raise KekMissingError(f"the variable {self.name} is not set")
        return _exactly(_decoded(text.strip()), self.name)

    def make(self, draw: Callable[[], bytes]) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class KeyProgram:
    """A program that prints the key, such as the client of a key manager.

    It is started without a shell and without input. Nothing that it says is quoted
    anywhere: its stderr is not even read.
    """

    arguments: tuple[str, ...]
    timeout_s: float = PROGRAM_TIMEOUT_S

    def fetch(self) -> bytearray:
        with self._started() as process:
            try:
                output, code = self._ended(process)
            finally:
                _end(process)
        name = self.arguments[0]
        if code != 0:
            erase(output)
            raise KekProgramError(f"{name} ended with exit code {code}")
        return _exactly(_raw_or_hex(output), name)

    def make(self, draw: Callable[[], bytes]) -> None:
        """Do nothing."""

    def _started(self) -> subprocess.Popen[bytes]:
        name = self.arguments[0]
        try:
            return subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise KekMissingError(f"there is no program {name}") from None
        except (OSError, ValueError):
            raise KekProgramError(f"{name} cannot be started") from None

    def _ended(self, process: subprocess.Popen[bytes]) -> tuple[bytearray, int]:
        end = time.monotonic() + self.timeout_s
        try:
            output = _read(process, end)
            return output, process.wait(max(0.0, end - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            name = self.arguments[0]
            message = f"{name} did not end within {self.timeout_s:g} s"
            raise KekProgramError(message) from None


def _arguments(text: str) -> tuple[str, ...]:
    try:
        arguments = tuple(shlex.split(text))
    except ValueError:
        raise KekUrlError("exec: a quotation mark is not closed") from None
    if not arguments or not Path(arguments[0]).is_absolute():
        raise KekUrlError("exec: expected the absolute path of a program")
    return arguments


def _require_private(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KekFormatError(f"{name} is not a file")
    if status.st_uid != os.geteuid():
        raise KekPrivacyError(f"{name} belongs to another user")
    if status.st_mode & 0o077:
        raise KekPrivacyError(f"others may touch {name}: expected mode 0600")


def _exactly(key: bytearray, name: str) -> bytearray:
    if len(key) != KEY_BYTES:
        erase(key)
        raise KekFormatError(f"{name} does not hold {KEY_BYTES} bytes")
    return key


def _decoded(text: str) -> bytearray:
    """Hex or base64; what is neither gives no bytes."""
    with suppress(binascii.Error, ValueError):
        if len(text) == _HEX_DIGITS:
            return bytearray(binascii.unhexlify(text))
        return bytearray(base64.b64decode(text, validate=True))
    return bytearray()


def _raw_or_hex(output: bytearray) -> bytearray:
    if len(output) == KEY_BYTES:
        return output
    try:
        stripped = output.strip()
        return bytearray(
            binascii.unhexlify(stripped) if len(stripped) == _HEX_DIGITS else b""
        )
    except binascii.Error:
        return bytearray()
    finally:
        erase(output)


def _read(process: subprocess.Popen[bytes], end: float) -> bytearray:
    """What the program prints, until it closes its stdout or prints too much."""
    output = bytearray()
    with DefaultSelector() as selector:
        selector.register(_stdout(process), EVENT_READ)
        while len(output) <= _LONGEST:
            left_s = end - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                raise TimeoutError
            chunk = _stdout(process).read(_LONGEST)
            if not chunk:
                break
            output += chunk
    return output


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise KekProgramError("the program has no stdout")
    return process.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that did not end, and whatever it started."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

"""A party's folder: settings, signing key, private files; and what its log says."""

import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigurationError, CorruptFileError, StorageError
from core.rpc.channel import _service_config
from core.rpc.identity import KEY_HOLDER, SpiffeId
from core.rpc.logs import JsonLines
from core.rpc.party import ensure_signing_key
from core.rpc.private_files import ensure_private, write_public
from core.rpc.settings import CommonSettings, Peer, read_settings

# Private files


def test_a_private_file_is_made_once_even_if_many_want_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    numbers = iter(range(100))

    with ThreadPoolExecutor(8) as pool:
        make = lambda: str(next(numbers)).encode()  # noqa: E731 -- two words
        contents = set(pool.map(lambda _: ensure_private(path, make), range(16)))

    assert len(contents) == 1
    assert [path] == list(path.parent.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot write"):
        ensure_private(tmp_path / "file" / "key", bytes)
    with pytest.raises(StorageError, match="cannot write"):
        write_public(tmp_path / "none" / "x.pem", b"x")


def test_a_public_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    write_public(path, b"old")
    write_public(path, b"new")

    assert path.read_bytes() == b"new"
    assert [path] == list(tmp_path.iterdir())


# The signing key


def test_a_party_keeps_its_signing_key(tmp_path: Path) -> None:
    first, second = (ensure_signing_key(tmp_path) for _ in range(2))
    raw = (tmp_path / "signing.key").read_bytes()

    assert first.private_bytes_raw() == second.private_bytes_raw() == raw
    assert len(raw) == 32
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600


def test_two_keys_of_a_folder_are_two_keys(tmp_path: Path) -> None:
    signing, log = ensure_signing_key(tmp_path), ensure_signing_key(tmp_path, "log.key")

    assert signing.private_bytes_raw() != log.private_bytes_raw()


def test_a_signing_key_that_is_broken_or_open_is_refused(tmp_path: Path) -> None:
    ensure_signing_key(tmp_path)
    key = tmp_path / "signing.key"
    key.write_bytes(b"short")
    with pytest.raises(CorruptFileError, match=r"signing\.key"):
        ensure_signing_key(tmp_path)

    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        ensure_signing_key(tmp_path)


# Settings

SETTINGS: dict[str, Any] = {
    "federation": "demo",
    "listen": "127.0.0.1:5001",
    "orchestrator": {
        "address": "127.0.0.1:5000",
        "spiffe_id": "spiffe://demo/hospital/orchestrator",
    },
}


def read(folder: Path, settings: object) -> CommonSettings:
    (folder / "settings.json").write_text(json.dumps(settings))
    return CommonSettings.read(read_settings(folder))


def test_settings_are_read_as_written(tmp_path: Path) -> None:
    orchestrator = SpiffeId("demo", "hospital", "orchestrator")

    assert read(tmp_path, SETTINGS) == CommonSettings(
        "demo", "127.0.0.1:5001", Peer("127.0.0.1:5000", orchestrator)
    )


def test_the_orchestrator_has_no_orchestrator(tmp_path: Path) -> None:
    settings = {k: v for k, v in SETTINGS.items() if k != "orchestrator"}

    assert read(tmp_path, settings).orchestrator is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"federation": ""}, "federation"),
        ({"federation": 3}, "federation"),
        ({"listen": "localhost"}, "listen"),
        ({"listen": "localhost:http"}, "listen"),
        ({"listen": "localhost:70000"}, "listen"),
        ({"listen": None}, "listen"),
        ({"orchestrator": "127.0.0.1:5000"}, "orchestrator"),
        ({"orchestrator": {"address": "a:1"}}, r"orchestrator\.spiffe_id"),
        ({"orchestrator": {"spiffe_id": "x"}}, r"orchestrator\.address"),
        (
            {"orchestrator": {"address": "a:1", "spiffe_id": "x"}},
            "spiffe://<federation>",
        ),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        read(tmp_path, SETTINGS | change)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3"])
def test_settings_that_cannot_be_read_are_refused(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_text(content)

    with pytest.raises(ConfigurationError, match=r"settings\.json"):
        read_settings(tmp_path)


def test_a_peer_is_read_by_its_name(tmp_path: Path) -> None:
    settings = {
        "key_holder": {"address": "h:1", "spiffe_id": "spiffe://demo/h/key-holder"}
    }

    assert Peer.read(settings, "key_holder") == Peer(
        "h:1", SpiffeId("demo", "h", KEY_HOLDER)
    )


# Logs


def line(message: str = "key stored", **extra: object) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {"name": "core", "levelname": "INFO", "msg": message, **extra}
    )
    written = JsonLines().format(record)
    assert "\n" not in written
    found: dict[str, Any] = json.loads(written)
    return found


def test_a_log_line_says_what_happened_with_its_fields() -> None:
    found = line(key_id="k1", version=3, seconds=0.5, primary=True, event="e")

    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info",
        "logger": "core",
        "message": "key stored",
        "key_id": "k1",
        "version": 3,
        "seconds": 0.5,
        "primary": True,
        "event": "e",
    }


def test_what_a_library_adds_to_every_record_is_no_field() -> None:
    """Ray does, once it is imported."""
    assert line(key_id="k1").keys() == line(key_id="k1", _ray_timestamp_ns=7).keys()


@pytest.mark.parametrize(
    "secret",
    [
        b"\x12\x34" * 16,
        bytearray(32),
        np.full((4, 4), 0.1234),
        [0.1234],
        {"seed": "0.1234"},
    ],
)
def test_a_secret_that_gets_into_a_log_call_does_not_get_into_the_log(
    secret: object,
) -> None:
    found = line(seed=secret)

    assert found["seed"] == f"<{type(secret).__name__}>"
    assert "1234" not in json.dumps(found["seed"])


def test_a_field_cannot_pass_for_the_level_or_the_time() -> None:
    found = line(level="debug", time="yesterday", logger="x")

    assert found["level"] == "info"
    assert found["logger"] == "core"
    assert found["time"] != "yesterday"


def test_a_line_stays_one_line_and_has_an_end() -> None:
    found = line("two\nlines", why="x" * 100_000, loss=float("nan"))

    assert found["message"] == "two\nlines"
    assert len(found["why"]) == 2000
    assert found["loss"] == "nan"


def test_an_exception_is_in_the_log() -> None:
    error = ValueError("what went wrong")

    found = line(exc_info=(type(error), error, None))

    assert "what went wrong" in found["exception"]


# Retry


def test_without_a_name_nothing_is_tried_again() -> None:
    assert json.loads(_service_config(())) == {"methodConfig": []}


def test_only_unavailable_is_tried_again() -> None:
    (config,) = json.loads(_service_config(["/x.Y/Z"]))["methodConfig"]

    assert config["name"] == [{"service": "x.Y", "method": "Z"}]
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]

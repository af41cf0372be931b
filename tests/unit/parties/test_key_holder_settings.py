"""What the key holder's settings.json may say, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from core.sealing import SealingKey
from parties.key_holder.settings import Settings

PEER = {"address": "127.0.0.1:1", "spiffe_id": "spiffe://demo/hub/orchestrator"}
LEAST = {
    "federation": "demo",
    "listen": "127.0.0.1:0",
    "orchestrator": PEER,
    "inference_server": PEER,
}
RECOVERY = SealingKey.generate().public_bytes()


def read(folder: Path, **more: Any) -> Settings:
    (folder / "settings.json").write_text(json.dumps(LEAST | more))
    return Settings.read(folder)


def test_without_a_word_keys_are_kept_in_the_folder(tmp_path: Path) -> None:
    settings = read(tmp_path)

    assert settings.database == f"sqlite:///{tmp_path}/key-holder.db"
    assert settings.kek == "file:kek.key"
    assert settings.recovery_key == b""


def test_what_is_said_counts(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        database="postgresql://host/keys",
        kek="env:KEK",
        recovery_key=RECOVERY.hex(),
        max_staleness_s=2,
    )

    assert settings.database == "postgresql://host/keys"
    assert settings.kek == "env:KEK"
    assert settings.recovery_key == RECOVERY
    assert settings.max_staleness_s == 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kek", ""),
        ("kek", 7),
        ("database", ""),
        ("recovery_key", ""),
        ("recovery_key", "zz"),
        ("recovery_key", RECOVERY.hex()[:-2]),
        ("recovery_key", 7),
        ("max_staleness_s", 0),
        ("max_staleness_s", "5"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        read(tmp_path, **{name: value})

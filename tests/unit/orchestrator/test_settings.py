"""The orchestrator's settings: every wrong field is named."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId
from orchestrator.federation import Policies
from orchestrator.settings import Settings

GOOD: dict[str, Any] = {
    "federation": "clinics.example",
    "listen": "127.0.0.1:0",
    "key_holder": {
        "address": "127.0.0.1:7001",
        "spiffe_id": "spiffe://clinics.example/vault/key-holder",
    },
    "inference_server": {
        "address": "127.0.0.1:7002",
        "spiffe_id": "spiffe://clinics.example/cloud/inference-server",
    },
    "parties": [{"spiffe_id": "spiffe://clinics.example/alder/data-owner"}],
}


def load(folder: Path, **changed: Any) -> Settings:
    (folder / "settings.json").write_text(json.dumps(GOOD | changed))
    return Settings.load(folder)


def test_the_settings_are_read(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings.federation == "clinics.example"
    assert settings.origin == "clinics.example/audit"
    assert settings.key_holder.address == "127.0.0.1:7001"
    assert settings.inference_servers[0].spiffe_id.role == "inference-server"
    assert settings.parties == (SpiffeId("clinics.example", "alder", "data-owner"),)
    assert settings.database == f"sqlite:///{tmp_path}/registry.db"
    assert settings.policies == Policies()
    assert (settings.lease_s, settings.workers) == (15.0, 4)


def test_the_policies_are_those_of_the_federation(tmp_path: Path) -> None:
    """As the federation's file is written, or as it was read and written again."""
    policies = {
        "rotation": {"max_age": "30d", "at": ["2027-01-31T02:00:00Z"]},
        "dual_control": ["revoke"],
        "destroy_window_s": 60,
    }
    settings = load(tmp_path, policies=policies)
    again = load(tmp_path, policies=settings.policies.model_dump(mode="json"))

    assert settings.policies.rotation.max_age == 30 * 24 * 3600.0
    assert settings.policies.dual_control == ["revoke"]
    assert again.policies == settings.policies


def test_the_registry_may_be_on_a_server(tmp_path: Path) -> None:
    url = "postgresql+psycopg://registry@db.example/keymixer"

    assert load(tmp_path, database=url).database == url


def test_the_database_may_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of three/parts")
    settings = load(tmp_path, database="postgresql://k:${SECRET}@db/keymixer")

    assert settings.database == "postgresql://k:of%20three%2Fparts@db/keymixer"
    assert "three" not in repr(settings)


def test_the_log_may_have_another_name(tmp_path: Path) -> None:
    assert load(tmp_path, origin="log.example/42").origin == "log.example/42"


def test_no_party_need_be_named(tmp_path: Path) -> None:
    assert load(tmp_path, parties=[]).parties == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", None),
        ("listen", "nowhere"),
        ("origin", "two words"),
        ("origin", "a+b"),
        ("origin", ""),
        ("key_holder", None),
        ("key_holder", {"address": "127.0.0.1:1"}),
        ("inference_server", "127.0.0.1:7002"),
        ("database", 7),
        ("policies", {"rotation_overlap_s": -1}),
        ("policies", {"rotation": {"max_age": "soon"}}),
        ("policies", {"dual_control": ["everything"]}),
        ("policies", []),
        ("lease_s", 0),
        ("lease_s", "15"),
        ("lease_s", True),
        ("lease_s", math.nan),
        ("workers", 0),
        ("workers", 2.0),
        ("workers", True),
        ("parties", {}),
        ("parties", ["alder"]),
        ("parties", [{"spiffe_id": 7}]),
        ("parties", [{"spiffe_id": "spiffe://elsewhere.example/alder/data-owner"}]),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        load(tmp_path, **{field: value})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"settings\.json"):
        Settings.load(tmp_path)

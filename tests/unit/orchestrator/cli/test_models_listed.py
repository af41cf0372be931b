"""`keymixer models list`: what it says of each version."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import models
from protos.registry_pb2 import ModelVersion
from tests.unit.orchestrator.office import manifest_bytes


@pytest.fixture(autouse=True)
def two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        ModelVersion(name="cells", version=1, manifest=manifest_bytes()),
        ModelVersion(
            name="cells",
            version=2,
            manifest=manifest_bytes(public=True),
            public_embedding=True,
        ),
    ]
    monkeypatch.setattr(models, "ask", lambda *_: found)


def said(*arguments: str) -> str:
    return CliRunner().invoke(models.build(), arguments, catch_exceptions=False).output


def test_a_person_and_a_program_see_whose_embedding_is_public() -> None:
    rows: list[dict[str, Any]] = json.loads(said("list", "--json"))

    assert [row["embedding"] for row in rows] == ["secret", "public"]
    assert [row["public_embedding"] for row in rows] == [False, True]
    assert "public" in said()

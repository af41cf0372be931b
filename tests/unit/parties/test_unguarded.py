"""A server without its guards serves nobody but the federation that measures."""

import json
from pathlib import Path

import pytest

from core.errors import WrongFederationError
from parties.inference_server.records import Awaited
from parties.inference_server.unguarded import (
    FEDERATION,
    Unrecorded,
    require_measuring,
)
from protos import audit_pb2 as pb


def test_another_federation_is_not_served_without_guards() -> None:
    with pytest.raises(WrongFederationError, match=r"hospitals\.example"):
        require_measuring("hospitals.example")


def test_the_federation_that_measures_is() -> None:
    require_measuring(FEDERATION)


def test_the_measured_federation_has_that_name() -> None:
    from orchestrator.bench.federation import federation_of  # noqa: PLC0415

    assert federation_of(1, 4, 2).federation == FEDERATION


def test_the_command_refuses_before_it_opens_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parties.inference_server import unguarded  # noqa: PLC0415

    peer = {"address": "127.0.0.1:1", "spiffe_id": "spiffe://x.example/a/orchestrator"}
    settings = {
        "federation": "x.example",
        "listen": "127.0.0.1:0",
        "orchestrator": peer,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    arguments = ["unguarded", "--folder", str(tmp_path), "--without", "audit"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(WrongFederationError):
        unguarded.main()


def test_an_unrecorded_answer_is_released_with_no_place_in_the_log() -> None:
    told: list[Awaited] = []
    Unrecorded().ask(pb.InferenceRecord(), told.append)

    verdict = told[0].verdict()
    assert (verdict.refusal, verdict.index) == ("", 0)

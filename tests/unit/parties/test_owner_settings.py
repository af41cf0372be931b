"""What a data owner's `settings.json` may say, and what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.encoding import FP16, FP32, UINT8
from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId
from parties.data_owner.settings import OwnerSettings, read_datatype

_OWNER = SpiffeId.parse("spiffe://demo/eastern/data-owner")


def peer(name: str, port: int = 1) -> dict[str, str]:
    return {
        "address": f"127.0.0.1:{port}",
        "spiffe_id": f"spiffe://demo/{name}/inference-server",
    }


def read(folder: Path, **said: Any) -> OwnerSettings:
    known = {
        "federation": "demo",
        "orchestrator": peer("consortium"),
        "key_holder": peer("keyhouse"),
        "inference_server": peer("cloudrow"),
    }
    (folder / "settings.json").write_text(json.dumps(known | said))
    return OwnerSettings.read(folder)


def test_one_inference_server_is_asked_if_no_others_are_listed(tmp_path: Path) -> None:
    settings = read(tmp_path)

    assert (settings.inference_server,) == settings.servers_for(_OWNER)


def test_listed_inference_servers_are_asked_in_place_of_the_one(
    tmp_path: Path,
) -> None:
    listed = [peer("cloudrow", 7), peer("hillside", 8)]
    servers = read(tmp_path, inference_servers=listed).servers_for(_OWNER)

    assert {("127.0.0.1:7", "cloudrow"), ("127.0.0.1:8", "hillside")} == {
        (one.address, one.spiffe_id.organisation) for one in servers
    }


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (peer("cloudrow"), "inference_servers: expected a list"),
        ("127.0.0.1:7", "inference_servers: expected a list"),
        ([peer("cloudrow"), "127.0.0.1:7"], r"inference_servers\[1\]: expected an add"),
        ([{"address": "127.0.0.1:7"}], r"inference_servers\[0\].spiffe_id"),
        ([peer("cloudrow", 70_000)], r"inference_servers\[0\].address"),
    ],
)
def test_what_is_no_list_of_servers_is_refused_by_its_place(
    tmp_path: Path, listed: Any, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read(tmp_path, inference_servers=listed)


@pytest.mark.parametrize(
    ("said", "datatype"),
    [
        ({}, FP32),
        ({"datatype": "float32"}, FP32),
        ({"datatype": "float16"}, FP16),
        ({"datatype": "uint8"}, UINT8),
    ],
)
def test_a_datatype_is_named_as_people_name_it(
    tmp_path: Path, said: dict[str, str], datatype: str
) -> None:
    assert datatype == read(tmp_path, **said).datatype


@pytest.mark.parametrize("name", ["FP32", "float64", "", "int8", "Float16"])
def test_any_other_datatype_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigurationError, match="float32, float16, uint8"):
        read_datatype(name)


@pytest.mark.parametrize(
    ("said", "expected"), [({}, True), ({"resend_unsure": False}, False)]
)
def test_what_may_have_been_answered_is_asked_again_unless_it_is_forbidden(
    tmp_path: Path, said: dict[str, bool], expected: bool
) -> None:
    assert read(tmp_path, **said).resend_unsure is expected


def test_a_word_is_neither_leave_to_ask_again_nor_forbids_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="resend_unsure: expected true or"):
        read(tmp_path, resend_unsure="false")


@pytest.mark.parametrize("said", [-0.1, 1.5, "a tenth", True, None])
def test_a_share_is_a_number_from_nothing_to_all(tmp_path: Path, said: object) -> None:
    with pytest.raises(ConfigurationError, match="candidate_share: expected a share"):
        read(tmp_path, candidate_share=said)

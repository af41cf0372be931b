"""A run's folder: what each party is given, and where."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.encoding import FP16, FP32, UINT8
from core.errors import ConfigurationError, NotFound
from core.processors import processors
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
    load_identity,
)
from orchestrator.audit.keys import public_log_key
from orchestrator.simulation.workspace import (
    Workspace,
    assign_ports,
    create_workspace,
)
from parties.data_owner.settings import OwnerSettings
from parties.inference_server.settings import Settings
from tests.unit.orchestrator.cli.desk import two_operators


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("workspace")
    scenario = two_operators(folder, max_staleness_s=3.0, dual_control=["revoke"])
    return create_workspace(folder / "runs", scenario)


def _settings(folder: Path) -> Any:
    return json.loads((folder / "settings.json").read_text())


def test_every_operator_has_a_folder_and_an_identity_of_its_own(
    workspace: Workspace,
) -> None:
    folders = [workspace.operator_folder(name) for name in ("consortium", "auditors")]
    names = [str(load_identity(folder).spiffe) for folder in folders]

    assert [f"operators/{each}" for each in ("consortium", "auditors")] == [
        str(folder.relative_to(workspace.root)) for folder in folders
    ]
    assert names == [
        "spiffe://digits.keymixer/consortium/operator",
        "spiffe://digits.keymixer/auditors/operator",
    ]


def test_the_first_operator_acts_if_none_is_named(workspace: Workspace) -> None:
    assert workspace.operator_folder() == workspace.operator_folder("consortium")


def test_who_is_no_operator_cannot_act_as_one(workspace: Workspace) -> None:
    """An organisation in another role has no operator's folder."""
    with pytest.raises(NotFound, match="consortium, auditors"):
        workspace.operator_folder("keyhouse")


def test_only_the_orchestrator_is_told_the_policies_and_who_takes_part(
    workspace: Workspace,
) -> None:
    federation = workspace.federation
    told = _settings(workspace.server_folder(ORCHESTRATOR))
    others = [p for p in federation.parties() if p.role != ORCHESTRATOR]

    assert told["policies"]["dual_control"] == ["revoke"]
    assert len(told["parties"]) == len(federation.parties()) == 9
    assert not any({"policies", "parties"} & _keys(workspace, p) for p in others)


def _keys(workspace: Workspace, party: Any) -> set[str]:
    return set(_settings(workspace.folder(party)))


@pytest.mark.parametrize("role", [KEY_HOLDER, INFERENCE_SERVER])
def test_who_serves_keys_is_told_how_stale_its_knowledge_may_be(
    workspace: Workspace, role: str
) -> None:
    assert _settings(workspace.server_folder(role))["max_staleness_s"] == 3.0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino-bfloat16"])
def test_the_inference_server_reads_the_engine_that_the_federation_chose(
    tmp_path: Path, engine: str
) -> None:
    """As the server itself reads its file."""
    scenario = two_operators(tmp_path)
    content = yaml.safe_load(scenario.read_text())
    if engine != "onnxruntime":  # the default
        content["serving"] = {"engine": engine}
    scenario.write_text(yaml.safe_dump(content))
    made = create_workspace(tmp_path / "runs", scenario)

    assert Settings.read(made.server_folder(INFERENCE_SERVER)).engine == engine
    assert "engine" not in _settings(made.server_folder(KEY_HOLDER))


def test_a_server_told_of_an_unknown_engine_names_those_there_are(
    tmp_path: Path,
) -> None:
    made = create_workspace(tmp_path / "runs", two_operators(tmp_path))
    folder = made.server_folder(INFERENCE_SERVER)
    told = _settings(folder) | {"engine": "abacus"}
    (folder / "settings.json").write_text(json.dumps(told))

    with pytest.raises(ConfigurationError, match="engine: expected one of auto, onnx"):
        Settings.read(folder)


def test_who_does_not_serve_has_no_address_to_listen_on(workspace: Workspace) -> None:
    provider = workspace.federation.first(MODEL_PROVIDER)
    told = _settings(workspace.folder(provider))

    assert {"orchestrator", "key_holder", "inference_server"} < set(told)
    assert "listen" not in told


def test_only_data_owners_are_told_the_logs_public_key(workspace: Workspace) -> None:
    """Who verifies the log must not learn its key from it."""
    parties = workspace.federation.parties()
    told = {p: _settings(workspace.folder(p)).get("log_public_key") for p in parties}
    key = public_log_key(workspace.server_folder(ORCHESTRATOR)).hex()

    assert {p: key if p.role == DATA_OWNER else None for p in parties} == told


def test_a_resumed_run_has_the_same_log_and_key(workspace: Workspace) -> None:
    owner = workspace.folder(workspace.federation.first(DATA_OWNER))
    before = _settings(owner)["log_public_key"]
    assign_ports(workspace)

    assert before == _settings(owner)["log_public_key"]


def test_what_a_person_added_to_the_settings_stays_when_a_run_is_resumed(
    workspace: Workspace,
) -> None:
    path = workspace.server_folder(KEY_HOLDER) / "settings.json"
    path.write_text(json.dumps({**_settings(path.parent), "recovery_key": "00"}))
    assign_ports(workspace)

    assert _settings(path.parent)["recovery_key"] == "00"
    assert _settings(path.parent)["listen"] == workspace.address(KEY_HOLDER)


def test_registry_and_log_are_where_the_federation_says(tmp_path: Path) -> None:
    """As it is written there: the value of a variable is in no file."""
    url = "postgresql://keymixer:${KEYMIXER_DB_PASSWORD}@db.example/keymixer"
    scenario = two_operators(tmp_path)
    content = yaml.safe_load(scenario.read_text()) | {"database": url}
    scenario.write_text(yaml.safe_dump(content))
    made = create_workspace(tmp_path / "runs", scenario)

    assert _settings(made.server_folder(ORCHESTRATOR))["database"] == url
    for role in (KEY_HOLDER, INFERENCE_SERVER):
        assert "database" not in _settings(made.server_folder(role))


def test_without_a_word_of_it_they_are_in_the_orchestrators_folder(
    workspace: Workspace,
) -> None:
    assert "database" not in _settings(workspace.server_folder(ORCHESTRATOR))


def test_replicas_have_one_name_and_a_folder_and_a_key_each(tmp_path: Path) -> None:
    scenario = two_operators(tmp_path)
    serving = {"serving": {"replicas": 3, "metrics": "127.0.0.1:9464"}}
    content = yaml.safe_load(scenario.read_text()) | serving
    scenario.write_text(yaml.safe_dump(content))
    workspace = create_workspace(tmp_path / "runs", scenario)
    names = ["inference-server", "inference-server-2", "inference-server-3"]
    identities = [load_identity(workspace.root / name) for name in names]
    settings = [Settings.read(workspace.root / name) for name in names]

    assert 1 == len({str(each.spiffe) for each in identities})
    assert 3 == len({each.private_key for each in identities})
    assert [workspace.address(name) for name in names] == [
        each.listen for each in settings
    ]
    assert [f"127.0.0.1:{port}" for port in (9464, 9465, 9466)] == [
        each.metrics for each in settings
    ]
    together = sum(each.at_once for each in settings)
    assert len(settings) <= together <= max(processors(), len(settings))
    for party, folder in workspace.folders:
        listed = [each["address"] for each in _settings(folder)["inference_servers"]]
        assert listed == [each.listen for each in settings], party


def test_one_inference_server_is_no_replica(workspace: Workspace) -> None:
    owner = workspace.owner_folder("archive")

    assert "inference_servers" not in _settings(owner)
    assert list(workspace.servers) == ["orchestrator", "key-holder", "inference-server"]


@pytest.mark.parametrize(
    ("policies", "datatype"),
    [
        ({}, FP32),
        ({"datatype": "float32"}, FP32),
        ({"datatype": "float16"}, FP16),
        ({"datatype": "uint8"}, UINT8),
    ],
)
def test_owners_send_what_the_policy_says_and_nobody_else_is_told(
    tmp_path: Path, policies: dict[str, str], datatype: str
) -> None:
    """As the owner itself reads its file."""
    made = create_workspace(tmp_path / "runs", two_operators(tmp_path, **policies))
    owner = made.federation.first(DATA_OWNER)

    assert datatype == OwnerSettings.read(made.folder(owner)).datatype
    assert "datatype" not in _settings(made.server_folder(INFERENCE_SERVER))


def test_a_policy_of_an_unknown_datatype_is_refused(tmp_path: Path) -> None:
    scenario = two_operators(tmp_path, datatype="float64")

    with pytest.raises(ConfigurationError, match="datatype"):
        create_workspace(tmp_path / "runs", scenario)

"""`federation.yaml` says who takes part; a wrong file says which field is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ConfigurationError
from core.rpc.identity import DATA_OWNER, KEY_HOLDER, OPERATOR
from orchestrator.federation import Policies, read_federation


def under_traffic(event: dict[str, object]) -> dict[str, object]:
    """An event of a timeline, in which another happens."""
    return {"event": "under_traffic", "events": [event]}


SCENARIOS = sorted(Path("deploy/scenarios").glob("*.yaml"))


@pytest.fixture
def content() -> dict[str, object]:
    """A scenario that is right, for a test to spoil."""
    loaded: dict[str, object] = yaml.safe_load(SCENARIOS[0].read_text())
    return loaded


def _written(folder: Path, content: object) -> Path:
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_is_right(path: Path) -> None:
    """What ships in `deploy` can be run."""
    federation = read_federation(path)

    assert len(federation.organisations_with(DATA_OWNER)) >= 3


def test_an_identity_names_federation_organisation_and_role() -> None:
    federation = read_federation(SCENARIOS[0])

    expected = f"spiffe://{federation.federation}/keyhouse/key-holder"

    assert expected == str(federation.only(KEY_HOLDER))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("federation", "Not A Domain", "federation"),
        ("unknown", 1, "unknown: Extra inputs"),
        ("organisations", [], "yaml: exactly one organisation must be orchestrator"),
        ("models", [], "models"),
        (
            "policies",
            {"grants": [{"owner": "nobody", "model": "convmixer"}]},
            "policies.grants.owner: \\['nobody'\\]",
        ),
        (
            "simulation",
            {"timeline": [{"event": "revoke", "owner": "nobody"}]},
            "simulation.timeline: \\['nobody'\\]",
        ),
        ("simulation", {"timeline": [{"event": "explode"}]}, "explode"),
        (
            "simulation",
            {"timeline": [under_traffic({"event": "suspend", "owner": "nobody"})]},
            "simulation.timeline: \\['nobody'\\]",
        ),
        (
            "simulation",
            {"timeline": [under_traffic({"event": "explode"})]},
            "under_traffic.events.0: .*'explode'",
        ),
        (
            "simulation",
            {"timeline": [{"event": "under_traffic", "events": []}]},
            "under_traffic.events: .*at least 1",
        ),
        (
            "simulation",
            {"timeline": [under_traffic({"event": "promote"})]},
            "promote: no release is tried",
        ),
        (
            "simulation",
            {"timeline": 2 * [under_traffic({"event": "release"})]},
            "release: another one is still tried",
        ),
        (
            "simulation",
            {
                "timeline": [
                    under_traffic(
                        {"event": "release", "architecture": {"patch_size": 1}}
                    )
                ]
            },
            "the keys are for patches of 2, not 1",
        ),
        (
            "models",
            [{"name": "convmixer", "provider": "nobody", "shield": "blur:3"}],
            "models.0.shield: .*noise:SIGMA or magnitude:K, got 'blur:3'",
        ),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, content: dict[str, object], field: str, value: object, message: str
) -> None:
    content[field] = value

    with pytest.raises(ConfigurationError, match=message):
        read_federation(_written(tmp_path, content))


def test_a_release_is_the_model_with_what_was_said(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    said: dict[str, object] = {"event": "release", "training": {"epochs": 9}}
    content["simulation"] = {"timeline": [under_traffic(said)]}
    federation = read_federation(_written(tmp_path, content))
    (model,), (release,) = federation.models, federation.simulation.releases
    released = release.of(model)

    assert model.training.epochs != 9
    assert model.training.model_dump() | {"epochs": 9} == released.training.model_dump()
    assert model.architecture == released.architecture


def test_a_model_with_sites_is_not_released_in_a_timeline(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["models"][0]["federated"] = {"sites": ["north", "south"]}
    content["simulation"] = {"timeline": [under_traffic({"event": "release"})]}

    with pytest.raises(ConfigurationError, match="release: the model has sites"):
        read_federation(_written(tmp_path, content))


@pytest.mark.parametrize(
    "event",
    [
        {"event": "rotate", "owner": "st-anna"},
        under_traffic({"event": "wait", "seconds": 1}),
    ],
)
def test_answers_under_noise_are_not_compared_under_traffic(
    tmp_path: Path, content: Any, event: dict[str, object]
) -> None:
    """Each is another one; a high-pass gives the same answer every time."""
    owner = content["policies"]["grants"][0]["owner"]
    busy = {**event, **({"owner": owner} if "owner" in event else {})}
    content["simulation"] = {"timeline": [busy]}
    content["models"][0]["shield"] = "highpass:3"

    assert read_federation(_written(tmp_path, content)).models[0].shield == "highpass:3"
    content["models"][0]["shield"] = "noise:0.1"
    with pytest.raises(ConfigurationError, match=r"noise:0\.1 gives every request"):
        read_federation(_written(tmp_path, content))


def test_an_organisation_named_twice_is_refused(
    tmp_path: Path, content: dict[str, list[object]]
) -> None:
    content["organisations"].append(content["organisations"][0])

    with pytest.raises(ConfigurationError, match="named twice"):
        read_federation(_written(tmp_path, content))


def test_a_missing_file_and_a_file_that_is_no_yaml_are_errors_of_ours(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("{")

    with pytest.raises(ConfigurationError, match="No such file"):
        read_federation(tmp_path / "missing.yaml")
    with pytest.raises(ConfigurationError, match="not YAML"):
        read_federation(broken)


# Policies.


def _with_operators(content: Any, *more: str, **policies: object) -> Any:
    """The scenario, with more operators than its `consortium`, and these policies."""
    added = [{"name": name, "roles": ["operator"]} for name in more]
    return {
        **content,
        "organisations": [*content["organisations"], *added],
        "policies": {**content["policies"], **policies},
    }


def test_several_organisations_may_be_operators(
    tmp_path: Path, content: dict[str, object]
) -> None:
    changed = _with_operators(content, "auditors", "board")
    federation = read_federation(_written(tmp_path, changed))

    assert ["consortium", "auditors", "board"] == (
        federation.organisations_with(OPERATOR)
    )
    assert "consortium" == federation.first(OPERATOR).organisation


def test_a_federation_without_an_operator_is_refused(
    tmp_path: Path, content: Any
) -> None:
    content["organisations"][0]["roles"] = ["orchestrator"]

    with pytest.raises(ConfigurationError, match="must be operator, got none"):
        read_federation(_written(tmp_path, content))


@pytest.mark.parametrize(
    ("more", "policies", "message"),
    [
        ([], {"dual_control": ["revoke"]}, "dual_control: revoke needs two operators"),
        (
            ["auditors"],
            {"dual_control": ["export", "destroy"], "approvers": ["auditors"]},
            r"export, destroy needs two operators who may approve, got \['auditors'\]",
        ),
        (
            ["auditors"],
            {"approvers": ["consortium", "keyhouse"]},
            r"policies.approvers: \['keyhouse'\] not among",
        ),
        (
            ["auditors"],
            {"dual_control": ["export"], "approvers": ["auditors", "auditors"]},
            "policies.approvers: .* named twice",
        ),
    ],
)
def test_two_must_be_able_to_agree_or_the_file_is_refused(
    tmp_path: Path,
    content: dict[str, object],
    more: list[str],
    policies: dict[str, object],
    message: str,
) -> None:
    """Otherwise the first request would wait for somebody who does not exist."""
    path = _written(tmp_path, _with_operators(content, *more, **policies))

    with pytest.raises(ConfigurationError, match=message):
        read_federation(path)


def test_dual_control_is_fine_with_two_who_may_approve(
    tmp_path: Path, content: dict[str, object]
) -> None:
    policies = {
        "dual_control": ["issue", "revoke", "destroy", "export"],
        "approvers": ["consortium", "auditors"],
    }
    changed = _with_operators(content, "auditors", "board", **policies)

    assert (
        read_federation(_written(tmp_path, changed)).policies.dual_control
        == (policies["dual_control"])
    )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("30d", 30 * 86_400), ("12h", 43_200), ("90", 90), (90, 90), (0.5, 0.5)],
)
def test_an_age_is_written_as_people_do(
    tmp_path: Path, content: dict[str, object], written: object, seconds: float
) -> None:
    changed = _with_operators(content, rotation={"max_age": written})

    rotation = read_federation(_written(tmp_path, changed)).policies.rotation

    assert rotation.max_age == seconds


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        ({"max_age": "soon"}, "policies.rotation.max_age.*such as 90s, 10m"),
        ({"max_age": 0}, "policies.rotation.max_age"),
        ({"max_images": 0}, "policies.rotation.max_images"),
        ({"daily_at": "24:00"}, "policies.rotation.daily_at"),
        ({"at": ["2027-01-31 02:00:00"]}, "policies.rotation.at.0.*timezone"),
        ({"weekly": True}, "policies.rotation.weekly"),
    ],
)
def test_a_wrong_rotation_policy_is_named(
    tmp_path: Path, content: dict[str, object], rotation: object, message: str
) -> None:
    path = _written(tmp_path, _with_operators(content, rotation=rotation))

    with pytest.raises(ConfigurationError, match=message):
        read_federation(path)


def test_policies_travel_as_json_and_come_back_the_same(
    tmp_path: Path, content: dict[str, object]
) -> None:
    """They go to the orchestrator in its `settings.json`."""
    policies = {
        "dual_control": ["revoke"],
        "rotation": {"max_age": "30d", "at": ["2027-01-31T02:00:00Z"]},
    }
    changed = _with_operators(content, "auditors", **policies)
    read = read_federation(_written(tmp_path, changed)).policies
    sent = json.dumps(read.model_dump(mode="json"))

    assert read == Policies.model_validate_json(sent)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sites": ["north"]}, "federated.sites"),
        ({"sites": ["north", "north"]}, "named twice"),
        ({"sites": ["north", "south"], "killed_once": "east"}, "killed_once"),
        ({"sites": ["north", "south"], "partition": "even"}, "expected iid"),
        ({"sites": ["north", "south"], "partition": "by-organisation"}, "deals"),
        ({"sites": ["north", "south"], "strategy": "mean"}, "strategy"),
    ],
)
def test_sites_that_cannot_train_are_refused_by_name(
    wrong: dict[str, object],
    message: str,
    content: dict[str, Any],
    tmp_path: Path,
) -> None:
    content["models"][0]["federated"] = wrong

    with pytest.raises(ConfigurationError, match=message):
        read_federation(_written(tmp_path, content))


@pytest.mark.parametrize(
    ("written", "size", "resize"),
    [
        ({"size": 224}, (224, 224), None),
        ({"size": "192x256", "resize": 300}, (192, 256), 300),
    ],
)
def test_a_model_says_what_its_pictures_are_fitted_to(
    content: Any,
    tmp_path: Path,
    written: dict[str, object],
    size: tuple[int, int],
    resize: int | None,
) -> None:
    content["models"][0]["images"] = written
    images = read_federation(_written(tmp_path, content)).models[0].images

    assert images is not None
    assert (images.fitted, images.resize) == (size, resize)


@pytest.mark.parametrize("size", [0, "", "big", "32x32x3", None])
def test_a_size_that_is_none_is_refused(
    content: Any, tmp_path: Path, size: object
) -> None:
    content["models"][0]["images"] = {"size": size}

    with pytest.raises(ConfigurationError, match=r"images\.size"):
        read_federation(_written(tmp_path, content))

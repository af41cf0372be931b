"""`federation.yaml` says who takes part; a wrong file says which field is wrong."""

from pathlib import Path

import pytest
import yaml

from core.errors import ConfigurationError
from core.rpc.identity import DATA_OWNER, KEY_HOLDER
from orchestrator.federation import read_federation

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
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, content: dict[str, object], field: str, value: object, message: str
) -> None:
    content[field] = value

    with pytest.raises(ConfigurationError, match=message):
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

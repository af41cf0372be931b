"""What Flower sends to every node: our code, and nothing a provider has besides."""

import io
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk, build_fab_from_files
from flwr.supercore.task_identity import TaskIdentity

from core.errors import SignatureError
from core.rpc.identity import SpiffeId, create_identity, install_certificate
from orchestrator.certificates import DevelopmentCA
from parties.model_provider.federated.deployment import signed_key, stage_app
from parties.model_provider.federated.in_process import FLOWER
from parties.model_provider.federated.plan import FederatedPlan

ROOT = Path(__file__).parents[4]

# Flower asks pathspec for a name that it no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatch:DeprecationWarning")

# Names that Flower's own patterns would take, or that a person may leave about.
TRAPS = (
    "core/signing.key",
    "core/datasets/digits.npz",
    "parties/model_provider/key.json",
    "parties/model_provider/releases/m/embedding.safetensors",
    "parties/model_provider/releases/m/manifest.json",
    "parties/key_holder/vault.py",
    "provider/signing.key",
    "provider/training/m/plan.json",
    "runs/latest/federation.yaml",
    "runs/latest/ca/ca.key",
    "settings.json",
    "README.md",
)


@pytest.fixture(scope="module")
def bundle() -> zipfile.ZipFile:
    """Built by Flower from the files that are in the repository, and the traps."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    files: dict[str, bytes | Path] = {
        name: ROOT / name for name in names if (ROOT / name).is_file()
    }
    content, _ = build_fab_from_files({**dict.fromkeys(TRAPS, b"secret"), **files})
    return zipfile.ZipFile(io.BytesIO(content))


def test_it_holds_python_of_two_packages_and_nothing_else(
    bundle: zipfile.ZipFile,
) -> None:
    names = set(bundle.namelist())
    sources = {
        str(path.relative_to(ROOT))
        for folder in ("core", "parties/model_provider")
        for path in (ROOT / folder).rglob("*.py")
    }

    assert names == {
        *sources,
        "parties/__init__.py",
        "pyproject.toml",
        ".info/CONTENT",
    }


def test_nothing_that_lies_about_is_in_it(bundle: zipfile.ZipFile) -> None:
    held = b"".join(bundle.read(name) for name in bundle.namelist())

    assert set(TRAPS) & set(bundle.namelist()) == set()
    assert b"secret" not in bundle.read(".info/CONTENT")
    assert b"PRIVATE KEY-----\nM" not in held


# The bundle's folder comes first on the path, as Flower puts it there.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from parties.model_provider.federated.client_app import app as client
from parties.model_provider.federated.server_app import app as server
ours = [m for n, m in sys.modules.items() if n.split(".")[0] in OURS and m.__file__]
assert ours and all(m.__file__.startswith(sys.argv[1]) for m in ours), ours
print(type(client).__name__, type(server).__name__)
"""


def test_both_apps_run_from_it_alone(bundle: zipfile.ZipFile, tmp_path: Path) -> None:
    bundle.extractall(tmp_path)
    ours = ("core", "parties", "protos", "orchestrator")
    done = subprocess.run(
        [sys.executable, "-c", f"OURS = {ours}\n{SCRIPT}", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout == "ClientApp ServerApp\n"


def test_a_run_has_the_plans_defaults() -> None:
    """They are written twice: Flower takes only names that stand in the file."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)["tool"]["flwr"]["app"]["config"]

    assert config == {"folder": "", **FederatedPlan().to_config()}


def test_flower_is_the_one_version_that_was_tried() -> None:
    """`in_process` sets what this version has no public name for."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]

    assert version("flwr") == FLOWER
    assert f"flwr=={FLOWER}" in extras["provider"]
    assert f"flwr=={FLOWER}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert {"_task_id", "_run_id", "_node_id"} <= vars(TaskIdentity).keys()


def test_what_keymixer_stages_is_what_the_checkout_bundles(
    bundle: zipfile.ZipFile, tmp_path: Path
) -> None:
    """An installed keymixer has no `pyproject.toml`, and makes one."""
    staged = zipfile.ZipFile(
        io.BytesIO(build_fab_from_disk(stage_app(tmp_path / "app")))
    )

    assert set(staged.namelist()) == set(bundle.namelist())
    apps = [
        tomllib.loads(found.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
        for found in (bundle, staged)
    ]
    assert apps[0] == apps[1]


def test_a_certificate_of_another_authority_is_not_let_in(tmp_path: Path) -> None:
    """Its key would be registered, and its node would get the plain model."""
    site = SpiffeId("demo.example", "north", "training-site")
    ours, theirs = (DevelopmentCA.create(tmp_path / name) for name in ("a", "b"))
    request = create_identity(tmp_path / "north", site)
    for authority in (ours, theirs):
        install_certificate(
            tmp_path / "north", authority.sign(request, site), authority.ca_pem
        )
        if authority is ours:
            key = signed_key(tmp_path / "north/identity.pem", tmp_path / "a/ca.pem")

    assert key.startswith(b"ecdsa-sha2-nistp256 ")
    with pytest.raises(SignatureError, match="not this federation's"):
        signed_key(tmp_path / "north/identity.pem", tmp_path / "a/ca.pem")

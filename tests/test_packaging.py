"""The wheel holds four packages and nothing else, and nobody else ships their names."""

import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"core", "orchestrator", "parties", "protos"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel, built with the backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    )
    built = subprocess.run(
        [sys.executable, "-c", build, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: set[str]) -> None:
    """`tests` and `deploy` stay at home."""
    tops = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}

    assert tops == OURS


@pytest.mark.parametrize(
    "name",
    [
        "protos/registry_pb2.py",
        "protos/registry_pb2_grpc.pyi",
        "protos/registry.proto",
        "orchestrator/simulation/report/templates/report.html.j2",
        "orchestrator/leakage/templates/leakage.html.j2",
        "orchestrator/registry/migrations/env.py",
        "parties/key_holder/migrations/env.py",
    ],
)
def test_the_wheel_holds_what_is_not_plain_python_too(
    wheel: set[str], name: str
) -> None:
    """A line in .gitignore can drop these without a word."""
    assert name in wheel


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for top in OURS
        for path in (ROOT / top).rglob("*.py")
    }

    assert sources <= wheel


@pytest.mark.parametrize("name", sorted(OURS))
def test_nobody_else_ships_our_names(name: str) -> None:
    """Two distributions with one name overwrite each other without a word."""
    shipped_by = set(packages_distributions().get(name, ()))
    module = import_module(name)

    # An editable install lists no packages; a wheel lists them as ours.
    assert shipped_by <= {"keymixer"}
    assert Path(str(module.__file__)).is_relative_to(ROOT)

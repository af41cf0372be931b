"""The command: help with examples, exit codes, one form of error."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from core.console import EXIT_CODES, exit_code
from core.errors import (
    AuditUnavailable,
    KeymixerError,
    KeyRefusedError,
    NotFound,
    ShapeError,
    SignatureError,
)
from orchestrator.cli.__main__ import build, main
from orchestrator.simulation.workspace import create_workspace

COMMANDS = [
    ("simulate",),
    ("up",),
    ("down",),
    ("status",),
    ("train",),
    ("predict",),
    ("encrypt",),
    ("leakage",),
    ("models",),
    ("models", "list"),
    ("models", "alias"),
    ("models", "import"),
    ("keys",),
    ("keys", "list"),
    ("keys", "show"),
    ("keys", "history"),
    ("keys", "create"),
    ("keys", "rotate"),
    ("keys", "revoke"),
    ("keys", "suspend"),
    ("keys", "resume"),
    ("keys", "compromised"),
    ("keys", "restore"),
    ("keys", "destroy"),
    ("keys", "export"),
    ("keys", "rewrap"),
    ("jobs",),
    ("jobs", "list"),
    ("jobs", "show"),
    ("jobs", "retry"),
    ("jobs", "abort"),
    ("approvals",),
    ("approvals", "list"),
    ("approvals", "approve"),
    ("approvals", "reject"),
    ("issued",),
    ("parties",),
    ("parties", "list"),
    ("parties", "revoke"),
    ("audit", "list"),
    ("audit", "show"),
    ("audit", "verify"),
    ("audit", "export"),
    ("audit", "receipt", "get"),
    ("audit", "receipt", "verify"),
]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    return build()


def _typed(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_json_and_its_exit_codes(
    app: typer.Typer, command: tuple[str, ...]
) -> None:
    shown = _typed(app, *command, "--help").output

    assert f"Example: keymixer {' '.join(command)}" in shown
    assert "--json" in shown
    assert "Exit codes: 0 done" in " ".join(shown.split())


def test_the_first_help_says_what_it_does_not_protect_against(
    app: typer.Typer,
) -> None:
    shown = " ".join(_typed(app, "--help").output.split())

    assert "no protection against an inference server that attacks" in shown


def test_it_says_which_version_it_is(app: typer.Typer) -> None:
    assert _typed(app, "--version").output == f"keymixer {version('keymixer')}\n"


def test_a_reason_must_say_something(app: typer.Typer) -> None:
    assert _typed(app, "keys", "revoke", "archive", "--reason", " ").exit_code == 2


@pytest.mark.parametrize("key", ["zz", "00", "11" * 33])
def test_a_public_key_is_64_hex_digits(
    app: typer.Typer, tmp_path: Path, key: str
) -> None:
    run = workspace(tmp_path)

    assert (
        _typed(app, "audit", "verify", "--run", run, "--public-key", key).exit_code == 2
    )


def workspace(folder: Path) -> str:
    """The folder of a run that has not started anything yet."""
    return str(create_workspace(folder, Path("deploy/scenarios/digits.yaml")).root)


def test_a_run_is_resumed_as_it_was(app: typer.Typer) -> None:
    assert _typed(app, "up", "--resume", "x", "--data", "digits").exit_code == 2


def test_wrong_usage_ends_with_two(app: typer.Typer) -> None:
    assert _typed(app, "simulate", "--unknown").exit_code == 2
    assert _typed(app, "nothing").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ShapeError("x"), 1),
        (NotFound("x"), 1),
        (SignatureError("x"), 3),
        (KeyRefusedError("x"), 3),
        (AuditUnavailable("x"), 4),
    ],
)
def test_an_error_ends_with_the_code_of_its_category(
    error: KeymixerError, code: int
) -> None:
    assert code == exit_code(error)
    assert f"{code} " in EXIT_CODES


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["keymixer", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_an_error_is_one_line_and_names_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    code = _main(monkeypatch, "keys", "--run", str(tmp_path))
    said = capsys.readouterr()

    assert code == 1
    assert said.out == ""
    assert said.err.startswith("error: Configuration:")
    assert "keymixer up" in said.err.replace("\n", " ")


def test_with_json_the_error_is_json(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    _main(monkeypatch, "keys", "--run", str(tmp_path), "--json")

    error = json.loads(capsys.readouterr().out)["error"]

    assert error["kind"] == "Configuration"
    assert set(error) == {"kind", "message", "next"}


def test_a_disk_that_cannot_be_written_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file stands where the folder of runs should be."""
    blocked = tmp_path / "runs"
    blocked.write_text("in the way")
    scenario = "deploy/scenarios/digits.yaml"

    code = _main(monkeypatch, "simulate", scenario, "--runs", str(blocked), "--json")

    error = json.loads(capsys.readouterr().out)["error"]
    assert code == 4
    assert error["kind"] == "Storage"
    assert str(blocked) in error["message"]


def test_a_command_whose_packages_are_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data owner's installation has no `jinja2`, and types `keymixer simulate`."""
    monkeypatch.setitem(sys.modules, "orchestrator.simulation.run", None)

    code = _main(monkeypatch, "simulate", "--json")

    error = json.loads(capsys.readouterr().out)["error"]
    assert code == 1
    assert error["kind"] == "NotInstalled"
    assert "pip install" in error["next"]


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    """A data owner has neither torch nor SQLAlchemy, and `--help` is quick."""
    program = (
        "import sys; from orchestrator.cli.__main__ import build; build();"
        "heavy = {'grpc', 'google.protobuf', 'sqlalchemy', 'torch', 'pydantic'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == 0

"""What the documents say is there is there."""

import re
from pathlib import Path

import pytest

from orchestrator.cli.__main__ import build
from orchestrator.simulation.report import content

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs" / "adr").glob("*.md"),
]
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]

    assert [] == missing


def test_every_command_of_the_readme_exists() -> None:
    app = build()
    known = {_name(command) for command in app.registered_commands}
    known |= {
        _name(command)
        for group in app.registered_groups
        if group.typer_instance
        for command in group.typer_instance.registered_commands
    }
    known |= {"audit", "keys"}
    readme = (ROOT / "README.md").read_text()
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", readme, re.DOTALL))
    written = re.findall(r"^keymixer ([a-z]+)", shell, re.MULTILINE)

    assert written
    assert set(written) <= known


def _name(command: object) -> str:
    callback = getattr(command, "callback", None)
    return str(getattr(command, "name", None) or getattr(callback, "__name__", ""))


def test_every_field_of_the_report_is_documented() -> None:
    """The names in the code that builds it stand in `docs/report.md`."""
    source = Path(content.__file__).read_text()
    fields = set(re.findall(r'^\s+"([a-z_0-9]+)":', source, re.MULTILINE))
    documented = (ROOT / "docs" / "report.md").read_text()
    figures = {"images", "top1_agreement", "max_logit_difference", "plain_accuracy"}

    assert {"run", "audit", "refused"} <= fields
    assert {f for f in fields | figures if f"`{f}`" not in documented} == set()


def test_the_readme_says_first_what_it_does_not_protect_against() -> None:
    first_screen = (ROOT / "README.md").read_text()[:1500]

    assert "no protection against a server that attacks" in first_screen
    assert "docs/threat-model.md" in first_screen

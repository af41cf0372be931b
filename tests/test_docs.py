"""What the documents say is there is there."""

import re
from functools import cache
from pathlib import Path

import click
import pytest
import typer

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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_written_exists_with_its_options(document: Path) -> None:
    """In blocks for a shell, and wherever `keymixer ...` is quoted."""
    text = document.read_text()
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    written = re.findall(r"^ *keymixer ([^#\n]+)", shell, re.MULTILINE)
    written += re.findall(r"`keymixer ([^`]+)`", text)

    assert [] == [line for line in written if not _exists(line.split())]


def test_the_documents_name_commands() -> None:
    """So that the test above has something to find."""
    for name in ("README.md", "docs/keys.md"):
        assert len(re.findall("keymixer keys", (ROOT / name).read_text())) > 3


@cache
def _keymixer() -> click.Command:
    return typer.main.get_command(build())


def _exists(words: list[str]) -> bool:
    command = _keymixer()
    while isinstance(command, click.Group) and words:
        found = command.commands.get(words[0])
        if found is None:
            break
        command, words = found, words[1:]
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    wanted = {word for word in words if re.fullmatch("--[a-z-]+", word)}
    if isinstance(command, click.Group):
        alone = command.invoke_without_command or wanted == {"--version"}
        return alone and wanted <= options and all(w.startswith("-") for w in words)
    return wanted <= options


def test_every_field_of_the_report_is_documented() -> None:
    """The names in the code that builds it stand in `docs/report.md`."""
    source = Path(content.__file__).read_text()
    fields = set(re.findall(r'^\s+"([a-z_0-9]+)":', source, re.MULTILINE))
    documented = (ROOT / "docs" / "report.md").read_text()
    figures = {"images", "top1_agreement", "max_logit_difference", "plain_accuracy"}

    assert {"run", "audit", "refused"} <= fields
    assert {f for f in fields | figures if f"`{f}`" not in documented} == set()


def test_the_readme_says_first_what_it_does_not_protect_against() -> None:
    first_screen = (ROOT / "README.md").read_text()[:1500].replace("\n> ", " ")

    assert "does not hide them from a server that attacks" in first_screen
    assert "docs/threat-model.md" in first_screen

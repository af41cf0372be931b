"""What is protected from whom is said in the same two sentences everywhere."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parties.data_owner.commands import app, predict

ROOT = Path(__file__).parents[2]
SENTENCES = (
    "keymixer hides pictures from people who only look at what the inference server "
    "receives or keeps, and mutual TLS keeps out everybody who is not part of the "
    "federation. It does not hide them from a server that attacks: from one encrypted "
    "picture such a server can usually recover most of what is on it, within seconds "
    "and without any key."
)
# What a person sees before scrolling: letters, without the pictures' own.
FIRST_SCREEN = 1_500
# A number of pictures under which something is called safe, in whatever way it is made:
# `safe for 1,000 images`, `safe up to {count} pictures`, `%d images are safe`.
NUMBER = r"(?:[\d.,]+|N|\{[^}]*\}|%[ds])"
WHAT = r"(?:encrypted |more )?(?:images|pictures|photos|blocks|requests|queries)"
CALLED_SAFE = re.compile(
    rf"\bsafe(?:ly)?\W+(?:for|up to|until|below|under|within)\W+(?:about\W+)?{NUMBER}"
    rf"\W+{WHAT}|{NUMBER}\W+{WHAT}\W+(?:is|are|stay|remain)\W+safe\b",
    re.IGNORECASE,
)
WRITTEN = ("core", "orchestrator", "parties", "protos", "docs", "deploy")
KINDS = frozenset({".py", ".md", ".j2", ".proto", ".yaml"})


def plain(text: str) -> str:
    """Without the marks of Markdown and where lines end."""
    return " ".join(re.sub(r"^>|[*`]", "", text, flags=re.MULTILINE).split())


def test_they_are_two_sentences() -> None:
    assert len(re.findall(r"\.(?:\s|$)", SENTENCES)) == 2


def test_the_readme_says_them_on_its_first_screen() -> None:
    text = plain((ROOT / "README.md").read_text())

    assert SENTENCES in text[:FIRST_SCREEN]


def test_the_threat_model_begins_with_them() -> None:
    title, text = (ROOT / "docs" / "threat-model.md").read_text().split("\n", 1)

    assert title == "# Threat model"
    assert plain(text).startswith(SENTENCES)


def test_whoever_asks_how_to_predict_is_told_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, ["predict", "--help"])

    assert SENTENCES in plain(inspect.getdoc(predict) or "")
    assert SENTENCES in plain(shown.stdout)


def written() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in WRITTEN:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS and path.is_file():
                yield path


def test_nothing_calls_a_number_of_pictures_safe() -> None:
    found = [
        (path.relative_to(ROOT), match.group())
        for path in written()
        for match in CALLED_SAFE.finditer(path.read_text())
    ]

    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "safe for 1,000 images",
        "Safe for N images",
        'f"safe for {count:,} pictures"',
        "safe up to about 50 blocks",
        "1,000 pictures are safe",
        "%d images remain safe",
    ],
)
def test_such_words_would_be_found(text: str) -> None:
    assert CALLED_SAFE.search(text)


def test_that_no_number_is_safe_may_be_said() -> None:
    assert not CALLED_SAFE.search("There is no safe number of pictures a key.")
    assert not CALLED_SAFE.search("no number of pictures is safe under a key")

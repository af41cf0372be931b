"""The worked example of docs/data.md: it is written to files, and its commands run."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from core.manifest import Manifest
from orchestrator.cli.__main__ import build
from parties.model_provider.__main__ import app

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SMALL = ("--hidden", "4", "--depth", "1", "--kernel-size", "3", "--batch", "4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: the example's module, its tables and its pictures."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "lesions.py").write_text(example)
    folder = tmp_path / "lesions"
    folder.mkdir()
    for split, count in (("train", 20), ("test", 5)):
        with (folder / f"{split}.csv").open("w", newline="") as table:
            rows = csv.DictWriter(table, ("file", "malignant"))
            rows.writeheader()
            for number in range(count):
                name = f"{split}-{number}.png"
                pixels = np.full((40 + number, 50, 3), 10 * number, np.uint8)
                Image.fromarray(pixels).save(folder / name)
                rows.writerow({"file": name, "malignant": number % 2})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "lesions", raising=False)
    return tmp_path


def commands() -> list[list[str]]:
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    lines = shell.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if "lesions:Lesions" in line]


def test_the_example_has_ten_lines() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    assert len([line for line in example.splitlines() if line.strip()]) <= 10


def test_the_examples_commands_train(here: Path) -> None:
    """By the provider alone, and over sites that it is dealt out to."""
    alone, together = commands()
    assert alone[:3] == ["python", "-m", "parties.model_provider"]
    assert together[0] == "keymixer"

    for program, words in ((app, alone[3:]), (build(), together[1:])):
        result = CliRunner().invoke(program, [*words, *SMALL])
        assert result.exit_code == 0, result.output
    (release,) = (here / "provider" / "releases").iterdir()
    manifest = Manifest.from_bytes((release / "manifest.json").read_bytes())
    split = json.loads((release / "split.json").read_text())
    assert manifest.classes == ("benign", "malignant")
    assert manifest.lineage["data"]["name"] == split["data"] == "Lesions"
    assert (224, 256) == (manifest.preprocessing.height, manifest.preprocessing.resize)

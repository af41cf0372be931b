"""The table of schemes and attacks in `docs/leakage.md` is what the reports give."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.leakage.schemes import block_scrambling
from orchestrator.bench.schemes import PLAIN, SCHEMES
from orchestrator.bench.shields import summed_up

DOCS = Path(__file__).parents[2] / "docs"
# A column for each: the attack's name, and how its setting begins.
COLUMNS = (
    ("known plaintext", "2 known blocks"),
    ("known plaintext", "12 known blocks"),
    ("ciphertext only", "1 seen"),
    ("ciphertext only", "3 seen"),
    ("ciphertext only", "10 seen"),
)
# Its blocks change places too: a picture is known, or many are put together again.
SCRAMBLED = (("known plaintext", "1 known picture"), ("jigsaw", "20 seen"))


def test_the_table_is_what_the_thorough_report_says() -> None:
    _, _, rest = (DOCS / "leakage.md").read_text().partition("<!-- schemes -->")
    table, _, _ = rest.partition("<!-- /schemes -->")
    found = [line for line in table.splitlines() if line.startswith("|")]

    assert found[2:] == [*rows()]


def test_every_cell_has_twenty_pictures_and_five_keys() -> None:
    """Or as many keys as pictures; at least."""
    for row in report()["attacks"]:
        if (row["name"], row["scheme"]) != ("ciphertext only", "random orthogonal"):
            continue
        seen, _, keys = row["setting"].partition(" seen under each of ")
        assert int(seen) * int(keys.split()[0]) == row["images"] >= 20
        assert int(keys.split()[0]) >= 5


def rows() -> Iterator[str]:
    """A line for each scheme: every attack on it, and its accuracy."""
    runs = json.loads((DOCS / "schemes.json").read_text())["runs"]
    accuracy = {each["scheme"]: each for each in summed_up(runs, "scheme", PLAIN)}
    for scheme in SCHEMES:
        if scheme == PLAIN:
            continue
        if scheme == block_scrambling.NAME:
            known, jigsaw = (cell(scheme, *each) for each in SCRAMBLED)
            cells = [f"one picture: {known}", "", "", "", f"20 pictures: {jigsaw}"]
        else:
            cells = [cell(scheme, *each) for each in COLUMNS]
        trained = f"{accuracy[scheme]['accuracy']:.1f}"
        yield f"| {scheme} | {' | '.join(cells)} | {trained} |"


def cell(scheme: str, name: str, setting: str) -> str:
    """The row of most pictures: PSNR, SSIM, and where nine pictures in ten lie."""
    matching = [
        row
        for row in report()["attacks"]
        if (row["name"], row["scheme"]) == (name, scheme)
        and row["setting"].startswith(setting)
    ]
    row: Mapping[str, Any] = max(matching, key=lambda each: each["images"])
    spread = f"{row['ssim_low']:.2f} to {row['ssim_high']:.2f}"
    return f"{row['psnr']:.1f} / {row['ssim']:.3f} ({spread})"


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "leakage-thorough.json").read_text())
    return found

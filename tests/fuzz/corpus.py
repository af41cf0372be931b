"""Inputs that fuzzing found to matter, one base64 line each, in a file for each target.

To keep what a run found: `python -m tests.fuzz.corpus TARGET FOLDER`.
"""

import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def kept(target: str) -> list[bytes]:
    """Everything that is kept for one target."""
    path = FOLDER / f"{target}.txt"
    return [b64decode(line) for line in path.read_text().splitlines()]


def keep(target: str, found: Iterable[bytes]) -> None:
    """Add inputs to those that are kept, each once."""
    path = FOLDER / f"{target}.txt"
    lines = set(path.read_text().splitlines()) if path.exists() else set()
    lines |= {b64encode(each).decode() for each in found}
    path.write_text("".join(f"{line}\n" for line in sorted(lines)))


if __name__ == "__main__":
    keep(sys.argv[1], (each.read_bytes() for each in Path(sys.argv[2]).iterdir()))

"""Mixed load on a real federation: `python -m tests.soak --minutes 10`.

Prints a line every ten seconds, then the report as JSON; the exit code is 1 if
something was not as it must be.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from core.errors import KeymixerError
from tests.soak.program import kinds
from tests.soak.report import require_sound, write_report
from tests.soak.soak import Plan, soak

# Above it, memory is not flat: it must not grow with the time that passes.
GROWTH: Final = 0.05


def main() -> int:
    """Run it, and say how it went."""
    asked = _arguments()
    console = Console(stderr=True)
    with _folder(asked.keep) as folder:
        plan = Plan(60 * asked.minutes, folder, kinds(asked.only), asked.figure)
        try:
            report = soak(plan, console, console.print)
            write_report(report, asked.json)
            require_sound(report, GROWTH)
        except KeymixerError as error:
            console.print(f"{error.kind}: {error}", style="red", markup=False)
            return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default="", help="kinds of traffic, with commas")
    parser.add_argument("--json", type=Path, help="write the report into this file")
    parser.add_argument("--figure", type=Path, help="draw it, as SVG, into this file")
    parser.add_argument("--keep", type=Path, help="keep folders and logs in this one")
    return parser.parse_args()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="keymixer-soak-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())

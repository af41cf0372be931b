"""Fuzz one decoder: `python -m tests.fuzz TARGET FOLDER [libFuzzer's options]`.

It begins with the target's own seeds, with what is kept and with what lies in the
folder; what reaches new code is added to that. An input that makes the decoder do what
it must not is written as `crash-...` to the working directory; the exit code is not 0.
"""

import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz.corpus import kept

with atheris.instrument_imports(include=["core", "orchestrator", "parties"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until libFuzzer ends: it leaves the process by itself."""
    name = sys.argv.pop(1)
    target = TARGETS[name]
    seeds = Path(tempfile.mkdtemp(prefix="keymixer-seeds-"))
    for number, seed in enumerate([*target.seeds, *kept(name)]):
        (seeds / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(seeds)], target.try_on)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

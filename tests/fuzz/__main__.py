"""Fuzz decoders: `python -m tests.fuzz TARGET[,TARGET...] FOLDER [OPTIONS]`.

The options are libFuzzer's. Each begins with the target's own seeds, with what is kept
and with what lies in the folder below FOLDER that has its name; what reaches new code
is added to that. An input that makes a decoder do what it must not is written as
`crash-...` to the working directory; the exit code is not 0, and the last line names
the decoders.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz.corpus import kept

with atheris.instrument_imports(include=["core", "orchestrator", "parties"]):
    from tests.fuzz.targets import TARGETS


def main() -> int:
    """Fuzz one after the other: to import and instrument takes longer than to fork."""
    names, folder, *options = sys.argv[1:]
    failed = [n for n in names.split(",") if _ended(n, Path(folder) / n, options)]
    sys.stderr.write(f"failed: {', '.join(failed) or 'none'}\n")
    return 1 if failed else 0


def _ended(name: str, found: Path, options: list[str]) -> int:
    """Fuzz in a process of its own, for libFuzzer ends it; return the exit code."""
    child = os.fork()
    if not child:
        _fuzz(name, found, options)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fuzz(name: str, found: Path, options: list[str]) -> None:
    target = TARGETS[name]
    found.mkdir(parents=True, exist_ok=True)
    seeds = Path(tempfile.mkdtemp(prefix="keymixer-seeds-"))
    for number, seed in enumerate([*target.seeds, *kept(name)]):
        (seeds / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(found), *options, str(seeds)], target.try_on)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

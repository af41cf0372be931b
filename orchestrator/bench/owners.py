"""What many owners take of one inference server, in two processes of their own."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import KeymixerError
from orchestrator.bench.machine import described

_PROGRAM: Final = "parties.inference_server.crowd"
_LONG_S: Final = 3600


class MeasuringFailed(KeymixerError):
    """The measuring process ended with an error."""

    hint = "see what it printed; there must be room on the disk for all embeddings"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many owners, of what model, and how much memory for embeddings (in MiB)."""

    owners: int = 10_000
    hidden: int = 256
    patch: int = 4
    budget_mib: int = 256


def measure_owners(plan: Plan) -> dict[str, Any]:
    """Lay the embeddings on disk, then have a fresh process load and find them."""
    with tempfile.TemporaryDirectory(prefix="keymixer-bench-") as folder:
        named = ["--folder", folder, "--owners", str(plan.owners)]
        sizes = ["--hidden", str(plan.hidden), "--patch", str(plan.patch)]
        _run([*named, *sizes, "--make"])
        budget = ["--budget-bytes", str(plan.budget_mib << 20)]
        found: dict[str, Any] = json.loads(_run([*named, *budget]))
        return {**found, "machine": described(Path(folder))}


def _run(arguments: list[str]) -> str:
    command = [sys.executable, "-m", _PROGRAM, *arguments]
    ended = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, timeout=_LONG_S
    )
    if ended.returncode:
        raise MeasuringFailed(f"{_PROGRAM} ended with {ended.returncode}")
    return ended.stdout

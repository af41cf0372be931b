"""Compare the engines here: `python -m parties.inference_server.engines`.

Each computes in processes of its own, in turns: two pools of threads in one process
would slow each other, and one after the other they would not meet the same noise.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

from core.architecture import Architecture
from parties.inference_server.engines.backbone import EmbeddedBackbone
from parties.inference_server.engines.choice import AUTO, NAMES, engine_named
from parties.inference_server.engines.speed import images_per_s
from parties.inference_server.engines.tensors import drawn

BATCHES: Final = (1, 8, 32)
_MODULE: Final = "parties.inference_server.engines"


def main() -> int:
    """Print the figures as JSON, a line for each engine."""
    asked = _arguments()
    if asked.only:
        print(json.dumps(measured(asked.only, asked.threads, asked.seconds)))  # noqa: T201
        return 0
    everyone = compared(asked.engines, asked.threads, asked.seconds, asked.rounds)
    for name, figures in everyone.items():
        print(json.dumps({"engine": name, **figures}))  # noqa: T201
    return 0


def compared(
    engines: Sequence[str], threads: int, seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Medians of rounds in which every engine has its turn."""
    seen: dict[str, list[Mapping[str, float]]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in engines:
            seen[name].append(_in_its_own_process(name, threads, seconds))
    return {
        name: {what: round(median(f[what] for f in found)) for what in found[0]}
        for name, found in seen.items()
    }


def measured(name: str, threads: int, seconds: float) -> dict[str, float]:
    """One engine's images a second by batch, and the memory of a server with it."""
    import_module("parties.inference_server.__main__")
    sizes = Architecture(hidden=256, depth=8)
    backbone = engine_named(name, threads).load(sizes, drawn(sizes, seed=1))
    if not isinstance(backbone, EmbeddedBackbone):
        raise TypeError(f"{name} gave no network")
    rates = {
        f"batch_{batch}": images_per_s({name: backbone.network}, sizes, batch, seconds)[
            name
        ]
        for batch in BATCHES
    }
    return rates | {"mib": _resident_mib()}


def _in_its_own_process(name: str, threads: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", _MODULE, "--only", name]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _resident_mib() -> float:
    """Linux only: what the process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}")
    known = [name for name in NAMES if name != AUTO]
    parser.add_argument(
        "engines", nargs="*", default=["onnxruntime", "openvino", "torch"]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each batch")
    parser.add_argument("--only", choices=known, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

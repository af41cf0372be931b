"""The forward of the plain model, alone in a process.

`python -m orchestrator.bench.bare` reads a task as JSON and prints its figures.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch

from core.architecture import Architecture
from core.convmixer import ConvMixer, put_together
from core.wire import load_tensors

_WARM_S: Final = 1.0


def main() -> None:
    """Read a task from the input, forward as often as there is time, print figures."""
    task = json.loads(sys.stdin.read())
    torch.set_num_threads(task["threads"])
    model = _model(Path(task["release"]))
    a = model.architecture
    images = torch.randn(task["images"], a.channels, a.height, a.width)
    _forward(model, images, _WARM_S)
    cpu = time.process_time()
    waits = sorted(_forward(model, images, task["seconds"]))
    _say(
        {
            "images_per_s": len(images) * len(waits) / sum(waits),
            "images_per_cpu_s": len(images) * len(waits) / (time.process_time() - cpu),
            "p50_ms": 1000 * waits[len(waits) // 2],
            "p99_ms": 1000 * waits[int(0.99 * len(waits))],
        }
    )


def _model(release: Path) -> ConvMixer:
    manifest = json.loads((release / "manifest.json").read_text())
    return put_together(
        Architecture.from_dict(manifest["architecture"]),
        load_tensors(release / "backbone.safetensors"),
        load_tensors(release / "embedding.safetensors")["weight"],
    )


def _forward(model: ConvMixer, images: torch.Tensor, seconds: float) -> list[float]:
    waits: list[float] = []
    until = time.perf_counter() + seconds
    with torch.inference_mode():
        while (began := time.perf_counter()) < until or not waits:
            model(images)
            waits.append(time.perf_counter() - began)
    return waits


def _say(entries: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(entries) + "\n")


if __name__ == "__main__":
    main()

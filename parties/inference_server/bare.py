"""What an engine does with nothing around it: `python -m parties.inference_server.bare`.

It computes what a server computes for a batch, embeddings included, from the model that
lies in a server's folder; no network, no queue, no log. Prints JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.errors import KeymixerError, NotFound
from parties.inference_server.engine import Backbone, Question
from parties.inference_server.engines.choice import NAMES, engine_named
from parties.inference_server.store import ModelStore

BATCHES: Final = (1, 32)


def main() -> int:
    """Measure one engine on the model in a folder."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server.bare")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", choices=NAMES, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch")
    asked = parser.parse_args()
    facts = measure(asked.folder, asked.engine, asked.threads, asked.seconds)
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def measure(folder: Path, engine: str, threads: int, seconds: float) -> dict[str, Any]:
    """Images a second of each batch, the time of each call, and processor time."""
    store = ModelStore(folder)
    stored = next(iter(store.load_backbones(_raise)), None)
    issued = next(iter(store.load_issues(_raise)), None)
    if stored is None or issued is None:
        raise NotFound(f"no model is kept in {folder}")
    sizes = stored.manifest.architecture
    backbone = engine_named(engine, threads).load(sizes, stored.tensors)
    shape = (max(BATCHES), sizes.rows, sizes.columns, sizes.dimension)
    blocks = np.random.default_rng(0).standard_normal(shape, np.float32)
    weight = issued.issue.weight
    return {
        f"batch_{batch}": _repeated(backbone, Question(blocks[:batch], weight), seconds)
        for batch in BATCHES
    }


def _repeated(backbone: Backbone, question: Question, seconds: float) -> dict[str, Any]:
    backbone.answer([question])  # the first one plans and allocates
    taken: list[float] = []
    cpu_s, end_s = time.process_time(), time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s:
        backbone.answer([question])
        taken.append(time.perf_counter() - began_s)
    images = len(taken) * len(question.blocks)
    return {
        "images_per_s": round(images / sum(taken), 1),
        "images_per_cpu_s": round(images / (time.process_time() - cpu_s), 1),
        "p50_ms": round(1000 * statistics.median(taken), 3),
    }


def _raise(_file: str, error: KeymixerError) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())

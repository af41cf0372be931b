"""An engine with nothing around it: `python -m parties.inference_server.bare`.

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
from threadpoolctl import threadpool_limits

from core.errors import KeymixerError, NotFound
from parties.inference_server.engine import Backbone, Question
from parties.inference_server.engines.choice import NAMES, engine_named
from parties.inference_server.store import ModelStore

_CENTILES: Final = 100
# A spread is of two at least, however slow the machine is.
_LEAST: Final = 2
_WARM_S: Final = 0.5


def main() -> int:
    """Measure one engine on the model in a folder."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server.bare")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", choices=NAMES, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    threadpool_limits(1, user_api="blas")  # as the server does
    backbone, question = prepared(
        asked.folder, asked.engine, asked.threads, asked.batch
    )
    repeated(backbone, question, _WARM_S)
    facts = repeated(backbone, question, asked.seconds)
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def prepared(
    folder: Path, engine: str, threads: int, batch: int
) -> tuple[Backbone, Question]:
    """Load the model of a server's folder, and make up blocks under its first key."""
    store = ModelStore(folder)
    stored = next(iter(store.load_backbones(_raise)), None)
    issued = next(iter(store.load_issues(_raise)), None)
    if stored is None or issued is None:
        raise NotFound(f"no model is kept in {folder}")
    sizes = stored.manifest.architecture
    backbone = engine_named(engine, threads).load(sizes, stored.tensors)
    shape = (batch, sizes.rows, sizes.columns, sizes.dimension)
    blocks = np.random.default_rng(0).standard_normal(shape, np.float32)
    return backbone, Question(blocks, issued.issue.weight)


def repeated(backbone: Backbone, question: Question, seconds: float) -> dict[str, Any]:
    """Images a second and a processor second, and the time of each call."""
    taken: list[float] = []
    cpu_s, end_s = time.process_time(), time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s or len(taken) < _LEAST:
        backbone.answer([question])
        taken.append(time.perf_counter() - began_s)
    images = len(taken) * len(question.blocks)
    cuts = statistics.quantiles(taken, n=_CENTILES)
    return {
        "images_per_s": images / sum(taken),
        "images_per_cpu_s": images / (time.process_time() - cpu_s),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
    }


def _raise(_file: str, error: KeymixerError) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())

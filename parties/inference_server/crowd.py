"""What many owners take of one server: `python -m parties.inference_server.crowd`.

`--make` lays made-up embeddings on disk as the server does; without it, a process of
its own loads them all as the server does at its start, asks for owners in a random
order, and prints JSON. The orchestrator's `bench owners` runs both.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.errors import KeymixerError
from core.statements import IssueStatement
from core.transform import embedding_digest
from core.wire import dump_tensors
from parties.inference_server.embeddings import Embeddings
from parties.inference_server.store import IssuedName, ModelStore

_CHANNELS: Final = 3
_MODEL: Final = "measured"
_LOOKS: Final = 2000


def main() -> int:
    """Make embeddings, or load and measure them."""
    parser = argparse.ArgumentParser(prog="python -m parties.inference_server.crowd")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--owners", type=int, required=True)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--budget-bytes", type=int, default=256 << 20)
    parser.add_argument("--make", action="store_true")
    asked = parser.parse_args()
    if asked.make:
        make(asked.folder, asked.owners, asked.hidden, asked.patch)
    else:
        facts = measure(asked.folder, asked.owners, asked.budget_bytes)
        sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def make(folder: Path, owners: int, hidden: int, patch: int) -> None:
    """Lay so many embeddings on disk; their statements are signed by nobody."""
    store = ModelStore(folder)
    numbers = np.random.default_rng(0)
    for owner in range(owners):
        shape = (hidden, _CHANNELS * patch**2)
        weight = numbers.standard_normal(shape, np.float32)
        said = _statement(owner, weight, patch)
        store.save_issue(said.to_bytes(), b"", dump_tensors({"weight": weight}), "")


def measure(folder: Path, owners: int, budget_bytes: int) -> dict[str, Any]:
    """Load all, then find owners in a random order; times in milliseconds."""
    store = ModelStore(folder)
    embeddings = Embeddings(store.read_issue, budget_bytes)
    began_s = time.perf_counter()
    for kept in store.load_issues(_raise):
        embeddings.add(kept.issue)
    start_s = time.perf_counter() - began_s
    order = np.random.default_rng(1).permutation(owners)[:_LOOKS]
    cold = [_timed(embeddings, int(each)) for each in order]
    warm = [_timed(embeddings, int(order[-1])) for _ in range(_LOOKS)]
    return {
        "owners": owners,
        "start_s": round(start_s, 2),
        "any_owner_ms": _spread(cold),
        "warm_ms": _spread(warm),
        "embeddings_mib": round(embeddings.in_memory / 2**20, 1),
        "peak_mib": round(_peak_kib() / 1024, 1),
    }


def _statement(owner: int, weight: np.ndarray, patch: int) -> IssueStatement:
    name = _name(owner)
    return IssueStatement(
        key_id=name.key_id,
        key_version=1,
        owner=f"spiffe://bench.keymixer/owner-{owner:06}/data-owner",
        model=_MODEL,
        model_version=1,
        digest=embedding_digest(weight).hex(),
        patch_size=patch,
        channels=_CHANNELS,
        hidden=weight.shape[0],
    )


def _name(owner: int) -> IssuedName:
    return IssuedName(f"owner-{owner:06}.{_MODEL}", 1, _MODEL, 1)


def _timed(embeddings: Embeddings, owner: int) -> float:
    """How long it takes to find an owner's embedding, in milliseconds."""
    name = _name(owner)
    began_s = time.perf_counter()
    embeddings.find(name)
    return 1000 * (time.perf_counter() - began_s)


def _spread(times_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times_ms, n=100)
    return {"median": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def _peak_kib() -> int:
    """The most memory this process held; a child's `ru_maxrss` is its parent's."""
    lines: Iterator[str] = iter(Path("/proc/self/status").read_text().splitlines())
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _raise(_file: str, error: KeymixerError) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())

"""What each party may see, and what lies in its folder at the end of the run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
)
from orchestrator.simulation.workspace import Workspace

COLUMNS = {
    MODEL_PROVIDER: "model provider",
    KEY_HOLDER: "key holder",
    INFERENCE_SERVER: "inference server",
    DATA_OWNER: "data owner",
    ORCHESTRATOR: "orchestrator",
}
# The promise of the design; `tests/federation/test_visibility.py` holds us to it.
PROMISE = {
    "owner's plain images": ("never", "never", "never", "its own", "never"),
    "owner's key": ("never", "yes", "never", "its own", "never"),
    "plain patch embedding": ("yes", "yes, encrypted", "never", "never", "never"),
    "backbone weights": ("yes", "never", "yes", "never", "never"),
    "issued embedding": ("never", "while issuing", "yes", "never", "digest only"),
    "encrypted images": ("never", "never", "yes", "its own", "keyed digest"),
    "predictions": ("never", "never", "yes", "its own", "keyed digest"),
    "registry, audit log": (*("own entries",) * 4, "all"),
}
_DOES = {
    ORCHESTRATOR: "keeps the registry, drives the workflows, keeps the audit log",
    OPERATOR: "grants, rotates, revokes",
    KEY_HOLDER: "draws the keys, folds them into the embedding",
    INFERENCE_SERVER: "answers encrypted images",
    MODEL_PROVIDER: "trained the model",
    DATA_OWNER: "encrypts its images and asks",
}
# Path in a party's folder -> what it is; the first match counts. Unnamed files are
# told by their own name, so that nothing a party holds is left out.
_KINDS = {
    "address": None,
    "settings.json": None,
    "*.pem": None,
    "*.json": None,
    "*.sig": None,
    "identity.key": "its identity",
    "signing.key": "its signing key",
    "sealing.key": "the key that opens sealed keys",
    "kek.key": "a key-encryption key",
    "log.key": "the log's signing key",
    "registry.db*": "the registry and the audit log",
    "key-holder.db": "keys and plain embeddings, encrypted",
    "key-holder.db-*": None,
    "checkpoint.txt": "the last signed checkpoint",
    "witness.lock": None,
    "keys/*/*.key": "own keys, encrypted",
    "releases/*/embedding.safetensors": "plain embeddings",
    "releases/*/backbone.safetensors": "backbones",
    "backbones/*": "backbones",
    "issued/*": "issued embeddings",
    "benchmark.npz": "test images, for the comparison",
    "plain-*.npz": "plain answers to them",
    "images.npz": "its own images",
    "samples.npz": "sample pictures",
    "answers.npz": "its answers",
    "traffic-*.ndjson": "what it asked without pause",
    "wrong-key.npz": "its answers under a wrong key",
}


@dataclass(frozen=True)
class PartyView:
    """A party, what it does, and what it holds."""

    organisation: str
    role: str
    does: str
    files: int
    kilobytes: float
    holds: str


def party_views(workspace: Workspace) -> Iterator[PartyView]:
    """One row a party, with what its folder holds."""
    for party in workspace.federation.parties():
        folder = workspace.folder(party)
        files = [f for f in folder.rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files) / 1024
        yield PartyView(
            party.organisation,
            party.role,
            _DOES[party.role],
            len(files),
            round(size, 1),
            holdings(f.relative_to(folder) for f in files),
        )


def holdings(paths: Iterable[Path]) -> str:
    """What the files are, in words; more than one of a kind with their number."""
    counts = Counter(kind for kind in map(_kind, paths) if kind)
    order = [*_KINDS.values(), *sorted(counts)]
    kinds = sorted(counts, key=order.index)
    return ", ".join(_counted(kind, counts[kind]) for kind in kinds)


def _kind(path: Path) -> str | None:
    for pattern, kind in _KINDS.items():
        if fnmatch(str(path), pattern):
            return kind
    return str(path)


def _counted(kind: str, count: int) -> str:
    return kind if count == 1 else f"{kind} ({count})"

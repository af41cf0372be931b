"""What each party may see, and what lies in its folder at the end of the run."""

from collections.abc import Iterator
from dataclasses import dataclass
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
        files = [f for f in workspace.folder(party).rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files) / 1024
        yield PartyView(
            party.organisation,
            party.role,
            _DOES[party.role],
            len(files),
            round(size, 1),
            _kinds(files),
        )


def _kinds(files: list[Path]) -> str:
    """The names of what is held, without counting copies."""
    names = sorted({f.name for f in files if f.suffix != ".pem"})
    shown = ", ".join(names[:7])
    return shown if len(names) <= 7 else f"{shown}, and {len(names) - 7} more"  # noqa: PLR2004 -- as many as a cell holds

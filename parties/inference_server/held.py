"""What whoever controls the inference server's folder holds: what is issued.

For the attacks of `keymixer leakage` alone. Transformed pictures pass through the
server's memory besides; it keeps none on disk.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.errors import KeymixerError, NotFound
from core.leakage.held import Held, KeyName
from core.manifest import Manifest
from parties.inference_server.store import ModelName, ModelStore


def secrets_held(folder: Path, manifest: Manifest) -> Held:
    """Read the embeddings issued for every key version of the manifest's model version.

    Raises:
        KeymixerError: what a file holds is not what it says; whatever kind it is.
    """
    store = ModelStore(folder)
    versions = {
        stored.name
        for stored in store.load_backbones(_raise, tidy=False)
        if stored.manifest == manifest
    }
    statements = [
        (kept.issue.statement, kept.issue.weight)
        for kept in store.load_issues(_raise, tidy=False)
    ]
    return Held(
        issued={
            KeyName(it.owner, it.key_id, it.key_version): weight
            for it, weight in statements
            if ModelName(it.model, it.model_version) in versions
        }
    )


def backbone_held(folder: Path, manifest: Manifest) -> Mapping[str, np.ndarray]:
    """Read the tensors behind the embedding, its bias among them.

    Raises:
        NotFound: the model version of this manifest is not here.
    """
    for stored in ModelStore(folder).load_backbones(_raise, tidy=False):
        if stored.manifest == manifest:
            return stored.tensors
    raise NotFound(f"{folder} has no backbone of {manifest.name}")


def served(folder: Path) -> list[Manifest]:
    """The manifests of the model versions whose backbones are here, oldest first."""
    found = sorted(
        ModelStore(folder).load_backbones(_raise, tidy=False),
        key=lambda stored: (stored.name.model, stored.name.version),
    )
    return [stored.manifest for stored in found]


def _raise(_name: str, error: KeymixerError) -> None:
    raise error

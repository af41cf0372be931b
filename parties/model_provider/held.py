"""What whoever controls the provider's folder holds of a model: the plain embedding.

For the attacks of `keymixer leakage` alone.
"""

from pathlib import Path

from core.errors import NotFound
from core.leakage.held import Held
from core.manifest import Manifest
from core.transform import flatten_embedding
from core.wire import file_digest, load_tensors


def secrets_held(folder: Path, manifest: Manifest) -> Held:
    """Read the embedding of the release that the manifest is of.

    A simulation's referee keeps `benchmark.npz`, all owners' pictures, in this folder.
    No provider has such a file, and it is not counted.

    Raises:
        NotFound: no release here has the manifest's embedding.
    """
    for path in sorted((folder / "releases").glob("*/embedding.safetensors")):
        if file_digest(path) == manifest.embedding_digest:
            (kernel,) = load_tensors(path).values()
            return Held(embedding=flatten_embedding(kernel))
    raise NotFound(f"no release in {folder} has the embedding of {manifest.name}")

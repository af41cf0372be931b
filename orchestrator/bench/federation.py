"""A federation of any number of owners, to measure: one model, the same key sizes."""

from pathlib import Path
from typing import Final

import yaml

from orchestrator.federation import (
    ArchitectureSection,
    Federation,
    Grant,
    ModelSection,
    Organisation,
    Policies,
    Serving,
)

MODEL: Final = "measured"

_PROVIDER: Final = "modelworks"
_OTHERS: Final = (
    Organisation(name="consortium", roles=["orchestrator", "operator"]),
    Organisation(name=_PROVIDER, roles=["model-provider"]),
    Organisation(name="keyhouse", roles=["key-holder"]),
    Organisation(name="cloudrow", roles=["inference-server"]),
)


def federation_of(
    owners: int, hidden: int, patch: int, depth: int = 1, replicas: int = 1
) -> Federation:
    """So many owners of one model; nothing waits for an overlap or a window.

    Args:
        owners: How many data owners.
        hidden: The width of a token.
        patch: The side of a patch, in pixels; a key has `(3 patch²)²` numbers.
        depth: Layers behind the embedding.
        replicas: How many processes are the inference server.
    """
    names = [f"owner-{number:06}" for number in range(1, owners + 1)]
    shape = ArchitectureSection(hidden=hidden, depth=depth, patch_size=patch)
    model = ModelSection(name=MODEL, provider=_PROVIDER, architecture=shape)
    return Federation(
        federation="bench.keymixer",
        organisations=[
            *_OTHERS,
            *(Organisation(name=name, roles=["data-owner"]) for name in names),
        ],
        models=[model],
        serving=Serving(replicas=replicas),
        policies=Policies(
            grants=[Grant(owner=name, model=MODEL) for name in names],
            rotation_overlap_s=0,
            destroy_window_s=0,
        ),
    )


def write_federation(federation: Federation, path: Path) -> None:
    """Write it as the `federation.yaml` that a person could have written."""
    path.write_text(yaml.safe_dump(federation.model_dump(mode="json")))

"""A release that nobody trained: its answers are noise, what its keys cost is not."""

import secrets
from pathlib import Path
from typing import Final

from core.architecture import Architecture
from core.convmixer import initialise, take_apart
from core.manifest import Manifest
from core.preprocessing import Preprocessing
from core.wire import dump_tensors, file_digest, write_atomically
from orchestrator.federation import ArchitectureSection, ModelSection
from orchestrator.simulation.training import RELEASE_FILES

_HALF: Final = (0.5, 0.5, 0.5)
_LARGE: Final = ArchitectureSection(hidden=256, depth=8)


def architecture_of(model: ModelSection) -> Architecture:
    """The model's shape, for colour images of 32 x 32.

    Raises:
        ConfigurationError: such images do not split into these patches.
    """
    return Architecture(**model.architecture.model_dump())


def write_untrained(folder: Path, model: ModelSection) -> None:
    """Write a release of random weights, as a provider's training would."""
    network = initialise(architecture_of(model), secrets.randbits(63))
    weight, others = take_apart(network)
    embedding, backbone = dump_tensors({"weight": weight}), dump_tensors(others)
    sizes = network.architecture
    manifest = Manifest(
        name=model.name,
        architecture=sizes,
        preprocessing=Preprocessing(
            sizes.height, sizes.width, sizes.channels, mean=_HALF, std=_HALF
        ),
        classes=tuple(f"class {number}" for number in range(sizes.classes)),
        metrics={},
        lineage={"training": "none"},
        embedding_digest=file_digest(embedding),
        backbone_digest=file_digest(backbone),
    )
    folder.mkdir(mode=0o700, parents=True)
    contents = (embedding, backbone, manifest.to_bytes())
    for name, content in zip(RELEASE_FILES, contents, strict=True):
        write_atomically(folder / name, content)


def write_large(folder: Path) -> Path:
    """Write such a release of the size that servers are measured with, once."""
    if not (folder / "manifest.json").is_file():
        model = ModelSection(name="convmixer", provider="nobody", architecture=_LARGE)
        write_untrained(folder, model)
    return folder

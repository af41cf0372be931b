"""A release that nobody trained: its answers are noise, what its keys cost is not."""

from pathlib import Path
from typing import Final

import torch

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise, take_apart
from core.manifest import Manifest
from core.preprocessing import Pixels, Preprocessing, normalise
from core.wire import dump_tensors, file_digest, write_atomically
from orchestrator.federation import ArchitectureSection, ModelSection
from orchestrator.simulation.training import RELEASE_FILES

# Any; one run is to be like another.
_SEED: Final = 1
_HALF: Final = (0.5, 0.5, 0.5)
_LARGE: Final = ArchitectureSection(hidden=256, depth=8)


def architecture_of(model: ModelSection) -> Architecture:
    """The model's shape, for colour images of 32 x 32.

    Raises:
        ConfigurationError: such images do not split into these patches.
    """
    return Architecture(**model.architecture.model_dump())


def write_untrained(
    folder: Path, model: ModelSection, images: Pixels | None = None
) -> None:
    """Write a release of random weights, as a provider's training would.

    With `images` its answers depend on what is asked: as it is drawn, such a network
    gives every picture the same class, and wrong answers would look right.
    """
    network = initialise(architecture_of(model), _SEED)
    if images is not None:
        spread_out(network, images)
    weight, others = take_apart(network)
    embedding, backbone = dump_tensors({"weight": weight}), dump_tensors(others)
    sizes = network.architecture
    manifest = Manifest(
        name=model.name,
        architecture=sizes,
        preprocessing=_preprocessing(sizes),
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


def spread_out(network: ConvMixer, images: Pixels) -> None:
    """Set the statistics of its BatchNorms, and its last bias, by these images."""
    read = torch.from_numpy(normalise(images, _preprocessing(network.architecture)))
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean of all, and not of the newest
    with torch.no_grad():
        network.train()(read)
        network.head.bias.sub_(network.eval()(read).mean(dim=0))


def _preprocessing(sizes: Architecture) -> Preprocessing:
    return Preprocessing(
        sizes.height, sizes.width, sizes.channels, mean=_HALF, std=_HALF
    )


def write_large(folder: Path, images: Pixels) -> Path:
    """Write such a release of the size that servers are measured with, once."""
    if not (folder / "manifest.json").is_file():
        model = ModelSection(name="convmixer", provider="nobody", architecture=_LARGE)
        write_untrained(folder, model, images)
    return folder

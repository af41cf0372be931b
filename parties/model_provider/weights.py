"""Between a model in memory and the two files of its release."""

from typing import Final

import numpy as np

from core.convmixer import ConvMixer, put_together, take_apart
from core.errors import CorruptFileError
from core.manifest import Manifest
from core.preprocessing import normalise
from core.training import predict_logits
from core.wire import dump_tensors, file_digest, load_tensors
from parties.model_provider.release import EMBEDDING, Release
from parties.model_provider.training import Trained

_WEIGHT: Final = "weight"


def release_of(trained: Trained) -> Release:
    """Cut a trained model in two and describe it."""
    weight, others = take_apart(trained.model)
    embedding, backbone = dump_tensors({_WEIGHT: weight}), dump_tensors(others)
    manifest = Manifest(
        name=trained.name,
        architecture=trained.model.architecture,
        preprocessing=trained.preprocessing,
        classes=trained.classes,
        metrics={"test_accuracy": trained.accuracy},
        lineage=trained.lineage,
        embedding_digest=file_digest(embedding),
        backbone_digest=file_digest(backbone),
    )
    return Release(manifest, embedding, backbone)


def model_of(release: Release) -> ConvMixer:
    """Build the plain model again, ready to answer."""
    embedding = load_tensors(release.embedding)
    if set(embedding) != {_WEIGHT}:
        raise CorruptFileError(f"{EMBEDDING}: expected one tensor, `{_WEIGHT}`")
    backbone = load_tensors(release.backbone)
    return put_together(release.manifest.architecture, backbone, embedding[_WEIGHT])


def plain_logits(release: Release, images: np.ndarray) -> np.ndarray:
    """Ask the plain model: uint8 [n, h, w, c] -> float32 [n, classes]."""
    normalised = normalise(images, release.manifest.preprocessing)
    return predict_logits(model_of(release), normalised)

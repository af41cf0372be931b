"""Between a model in memory and the two files of its release."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from core.architecture import Architecture
from core.card import Card
from core.convmixer import ConvMixer, put_together, take_apart
from core.errors import CorruptFileError
from core.manifest import Manifest
from core.normals import Entropy
from core.preprocessing import Preprocessing, normalise
from core.shield import Shield, apply
from core.training import predict_logits
from core.wire import dump_tensors, file_digest, load_tensors
from parties.model_provider.release import EMBEDDING, Release
from parties.model_provider.training import Trained

_WEIGHT: Final = "weight"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says, but for the digests of its files; see `Manifest`."""

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    lineage: Mapping[str, Any]
    public_embedding: bool = False
    shield: Shield | None = None
    leakage: Card | None = None


def release_of(
    trained: Trained, *, public: bool = False, leakage: Card | None = None
) -> Release:
    """Cut a trained model in two and describe it.

    Args:
        public: Others will have the plain embedding, too: a release to be published.
        leakage: What attacks recovered of pictures that it was not trained on.
    """
    facts = Facts(
        name=trained.name,
        architecture=trained.model.architecture,
        preprocessing=trained.preprocessing,
        classes=trained.classes,
        metrics=trained.metrics,
        lineage=trained.lineage,
        public_embedding=public,
        shield=trained.shield,
        leakage=leakage,
    )
    return cut(*take_apart(trained.model), facts)


def cut(weight: np.ndarray, others: Mapping[str, np.ndarray], facts: Facts) -> Release:
    """Put the embedding into one file and all the others into another."""
    embedding, backbone = dump_tensors({_WEIGHT: weight}), dump_tensors(others)
    manifest = Manifest(
        **{field.name: getattr(facts, field.name) for field in fields(facts)},
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


def plain_logits(
    release: Release, images: np.ndarray, entropy: Entropy = os.urandom
) -> np.ndarray:
    """Ask the plain model: uint8 [n, h, w, c] -> float32 [n, classes].

    It reads what the shield leaves of the images, with noise out of `entropy`.
    """
    read = normalise(images, release.manifest.preprocessing)
    if release.manifest.shield is not None:
        read = apply(read, release.manifest.shield, entropy)
    return predict_logits(model_of(release), read)

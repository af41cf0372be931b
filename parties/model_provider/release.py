"""A release: a model cut in two files, and the manifest that says what they are.

embedding.safetensors   the plain patch embedding, as secret as a key: mode 0600
backbone.safetensors    everything else
manifest.json           RFC 8785 canonical JSON, with the digests of both
manifest.sig            the provider's Ed25519 signature over the manifest
curve.json              how the training went
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.card import Card
from core.errors import NotFound, StorageError
from core.manifest import Manifest
from core.statements import MANIFEST, sign, verify
from core.wire import (
    file_digest,
    read_file,
    write_atomically,
)
from parties.model_provider.errors import ReleaseChangedError

EMBEDDING: Final = "embedding.safetensors"
BACKBONE: Final = "backbone.safetensors"
MANIFEST_FILE: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
CURVE: Final = "curve.json"
NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Epoch:
    """One point of the training curve; `loss` is the mean over the epoch's steps.

    `accuracy` is of the test images, `validation` of those held out to decide by. The
    release has the weights of the last epoch that is `kept`.

    `seconds` are those since training began, `cpu_seconds` those that processors have
    spent on training steps alone, of all sites together.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    validation: float | None = None
    kept: bool = True
    cpu_seconds: float = 0.0


def kept_epoch(curve: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are released."""
    return next(point for point in reversed(curve) if point.kept)


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A release in memory; the two files agree with the manifest."""

    manifest: Manifest
    embedding: bytes = field(repr=False)
    backbone: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_digest(EMBEDDING, self.embedding, self.manifest.embedding_digest)
        _check_digest(BACKBONE, self.backbone, self.manifest.backbone_digest)


def write_release(
    folder: Path,
    release: Release,
    curve: Sequence[Epoch],
    key: Ed25519PrivateKey,
    beside: Mapping[str, bytes] = NOTHING,
) -> None:
    """Write a signed release so that the folder is either whole or not there.

    `beside` are more files that belong with it, by name.
    """
    manifest = release.manifest.to_bytes()
    points = json.dumps([asdict(epoch) for epoch in curve], indent=2)
    files = {
        EMBEDDING: release.embedding,
        BACKBONE: release.backbone,
        MANIFEST_FILE: manifest,
        SIGNATURE: sign(key, MANIFEST, manifest),
        CURVE: points.encode(),
        **beside,
    }
    _replace_folder(folder, files)


def read_release(folder: Path) -> Release:
    """Read a release and check its digests.

    Raises:
        NotFound: a file of it is missing.
        CorruptFileError: the manifest cannot be read.
        ReleaseChangedError: a file is not the one the manifest names.
    """
    manifest = Manifest.from_bytes(read_file(folder / MANIFEST_FILE))
    embedding = read_file(folder / EMBEDDING)
    return Release(manifest, embedding, read_file(folder / BACKBONE))


def add_card(
    folder: Path, release: Release, card: Card, key: Ed25519PrivateKey
) -> Release:
    """Have the manifest in the folder say what was measured, and sign it again.

    A signature that is missing is made when it is asked for, so a crash leaves a
    release that can be registered.
    """
    measured = replace(release, manifest=replace(release.manifest, leakage=card))
    (folder / SIGNATURE).unlink(missing_ok=True)
    write_atomically(folder / MANIFEST_FILE, measured.manifest.to_bytes())
    signature_of(folder, measured, key)
    return measured


def signature_of(folder: Path, release: Release, key: Ed25519PrivateKey) -> bytes:
    """Return the signature in the folder, or sign now if there is none.

    Raises:
        SignatureError: the signature there is not this provider's.
    """
    manifest = release.manifest.to_bytes()
    try:
        signature = read_file(folder / SIGNATURE)
    except NotFound:
        signature = sign(key, MANIFEST, manifest)
        write_atomically(folder / SIGNATURE, signature)
    verify(key.public_key().public_bytes_raw(), MANIFEST, manifest, signature)
    return signature


def _check_digest(name: str, content: bytes, expected: str) -> None:
    if (got := file_digest(content)) != expected:
        raise ReleaseChangedError(
            f"{name}: expected SHA-256 {expected[:16]}..., got {got[:16]}..."
        )


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write aside, then swap: a crash leaves the old folder, the new one, or none."""
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            write_atomically(aside / name, content)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error

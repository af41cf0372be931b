"""What a release says of itself: the signed facts of one model version."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from core.architecture import Architecture
from core.canonical import canonical, parse, take_fields
from core.card import Card
from core.errors import CorruptFileError, InvalidInput, TooLargeError
from core.preprocessing import Preprocessing
from core.shield import Shield, shield_from

# A thousand class names fit; a megabyte of lineage, kept for good, does not.
MAX_BYTES: Final = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One release of a model. A manifest that exists is consistent.

    `classes` are the names of the outputs, in order. `metrics` are figures such as
    `test_accuracy`, in 0..1. `lineage` says where the weights come from: code version,
    digest of the data, seed, recipe, parent. The two digests are the SHA-256, in hex,
    of the files `embedding.safetensors` and `backbone.safetensors`.

    `public_embedding` says that others have the plain embedding, or can have it: from
    a public `W` and an issued `W A^T` the key follows. It is written only if it is so.

    With a `shield` the architecture is of a network that reads what the shield leaves
    of each block: `channels` are its numbers, `patch_size` is 1, and `height` and
    `width` count blocks. `preprocessing` is of the pictures. It is left out if there
    is none.

    `leakage` is what attacks recovered of pictures that the provider has; left out if
    nobody measured it.
    """

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    lineage: Mapping[str, Any]
    embedding_digest: str
    backbone_digest: str
    public_embedding: bool = False
    shield: Shield | None = None
    leakage: Card | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_classes(self.classes, self.architecture.classes)
        _check_input(self.architecture, self.preprocessing, self.shield)
        _check_metrics(self.metrics)
        for digest in (self.embedding_digest, self.backbone_digest):
            if not _SHA256_HEX.fullmatch(digest):
                raise CorruptFileError("digest: expected 64 hex digits")

    @property
    def block(self) -> tuple[int, int]:
        """The side in pixels, and the channels, of a picture's blocks."""
        form = self.architecture if self.shield is None else self.shield
        return form.patch_size, form.channels

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON (RFC 8785), the bytes that are signed."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        entries["architecture"] = self.architecture.to_dict()
        entries["preprocessing"] = self.preprocessing.to_dict()
        if not self.public_embedding:
            del entries["public_embedding"]
        for name in ("shield", "leakage"):
            if (said := entries.pop(name)) is not None:
                entries[name] = said.to_dict()
        return canonical(entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote, and check all of it.

        Raises:
            CorruptFileError: for another form, unknown fields, or facts that disagree.
            TooLargeError: for more than `MAX_BYTES`.
        """
        if len(data) > MAX_BYTES:
            raise TooLargeError(f"manifest: at most {MAX_BYTES} bytes, got {len(data)}")
        entries = _taken(parse(data))
        try:
            architecture = Architecture.from_dict(entries["architecture"])
            preprocessing = Preprocessing.from_dict(entries["preprocessing"])
            shield = (
                shield_from(entries["shield"], preprocessing)
                if "shield" in entries
                else None
            )
            leakage = (
                Card.from_dict(entries["leakage"], architecture.dimension)
                if "leakage" in entries
                else None
            )
        except InvalidInput as error:
            raise CorruptFileError(f"manifest: {error}") from error
        return cls(
            **entries
            | {
                "architecture": architecture,
                "preprocessing": preprocessing,
                "classes": tuple(entries["classes"]),
                "shield": shield,
                "leakage": leakage,
            }
        )


_FIELDS: Mapping[str, type] = {
    "name": str,
    "architecture": dict,
    "preprocessing": dict,
    "classes": list,
    "metrics": dict,
    "lineage": dict,
    "embedding_digest": str,
    "backbone_digest": str,
}


_OPTIONAL: Mapping[str, type] = {
    "public_embedding": bool,
    "shield": dict,
    "leakage": dict,
}


def _taken(document: Any) -> dict[str, Any]:
    """The fields by name; what may be left out must then say something."""
    there = document if type(document) is dict else {}
    said = {name: form for name, form in _OPTIONAL.items() if name in there}
    entries = take_fields(document, {**_FIELDS, **said})
    if not entries.get("public_embedding", True):
        raise CorruptFileError(
            "public_embedding: a secret one is said by leaving it out"
        )
    return entries


def _check_name(name: str) -> None:
    """A name becomes part of file names and commands: letters, digits, and `._-`."""
    if not _NAME.fullmatch(name):
        raise CorruptFileError(f"name: expected to match {_NAME.pattern}")


def _check_classes(classes: tuple[str, ...], count: int) -> None:
    if any(type(name) is not str for name in classes):
        raise CorruptFileError("classes: expected names")
    if not all(name.strip() and name.isprintable() for name in classes):
        raise CorruptFileError("classes: a name is empty or not printable")
    if len(set(classes)) != len(classes):
        raise CorruptFileError("classes: a name appears twice")
    if len(classes) != count:
        raise CorruptFileError(f"classes: expected {count} names, got {len(classes)}")


def _check_input(
    architecture: Architecture, preprocessing: Preprocessing, shield: Shield | None
) -> None:
    """Refuse a preprocessing that makes images of another size than the model reads."""
    side, channels = 1, architecture.channels
    if shield is not None:
        _check_shield(architecture, preprocessing, shield)
        side, channels = shield.patch_size, shield.channels
    expected = {
        "height": architecture.height * side,
        "width": architecture.width * side,
        "channels": channels,
    }
    for name, wanted in expected.items():
        if wanted != (got := getattr(preprocessing, name)):
            raise CorruptFileError(
                f"preprocessing.{name}: expected {wanted}, got {got}"
            )


def _check_shield(
    architecture: Architecture, preprocessing: Preprocessing, shield: Shield
) -> None:
    expected = (shield.outputs, 1)
    got = (architecture.channels, architecture.patch_size)
    if got != expected:
        raise CorruptFileError(
            f"shield: expected an architecture of channels and patch {expected}, "
            f"got {got}"
        )
    # Of noise the deviation depends on it.
    if shield != shield_from(shield.to_dict(), preprocessing):
        raise CorruptFileError("shield: it is for pictures of another preprocessing")


def _check_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if type(value) not in (int, float):
            raise CorruptFileError(f"metrics.{name}: expected a number")

"""What the inference server serves, on disk: backbones and issued embeddings.

Each is a safetensors file and a JSON file that says what it must be; the JSON is
written last and deleted first, so a file without it is a leftover. No key and no plain
embedding ever lies here.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

import numpy as np

from core.canonical import canonical, parse, take_fields
from core.errors import (
    CorruptFileError,
    KeymixerError,
    NotFound,
    SignatureError,
    StorageError,
)
from core.manifest import Manifest
from core.statements import IssueStatement
from core.transform import embedding_digest
from core.wire import file_digest, load_tensors, read_file, write_atomically

log = logging.getLogger(__name__)

OnCorrupt = Callable[[str, KeymixerError], None]
_Stored = TypeVar("_Stored", "StoredBackbone", "KeptIssue")

_PLAIN_EMBEDDING: Final = "embedding.weight"
_WEIGHT: Final = "weight"
_MATRIX_AXES: Final = 2


@dataclass(frozen=True, slots=True)
class ModelName:
    """One version of a model."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class IssuedName:
    """One model version as issued for one key version."""

    key_id: str
    key_version: int
    model: str
    model_version: int

    @classmethod
    def of(cls, statement: IssueStatement) -> Self:
        return cls(
            statement.key_id,
            statement.key_version,
            statement.model,
            statement.model_version,
        )


@dataclass(frozen=True, slots=True, eq=False)
class StoredBackbone:
    """A release's backbone: its manifest and its tensors."""

    name: ModelName
    manifest: Manifest
    tensors: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class StoredIssue:
    """An issued embedding `[hidden, D]` and the statement that binds it."""

    statement: IssueStatement
    weight: np.ndarray = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class KeptIssue:
    """An issued embedding as it lay on disk, with what it takes to verify it again.

    `signer` is the SPIFFE ID of the key holder that is said to have signed.
    """

    issue: StoredIssue
    statement: bytes
    signature: bytes
    signer: str


def read_backbone(
    name: ModelName, manifest: Manifest, content: bytes
) -> StoredBackbone:
    """Check `backbone.safetensors` against its manifest and read it."""
    if file_digest(content) != manifest.backbone_digest:
        raise SignatureError("expected the backbone that the manifest names")
    tensors = load_tensors(content)
    if _PLAIN_EMBEDDING in tensors:
        raise CorruptFileError("a backbone must not hold the plain patch embedding")
    return StoredBackbone(name, manifest, tensors)


def read_issue(statement: IssueStatement, content: bytes) -> StoredIssue:
    """Check an issued embedding against its statement and read it."""
    tensors = load_tensors(content)
    if list(tensors) != [_WEIGHT] or tensors[_WEIGHT].ndim != _MATRIX_AXES:
        raise CorruptFileError(f"expected one matrix, `{_WEIGHT}`")
    weight = tensors[_WEIGHT]
    dimension = statement.channels * statement.patch_size**2
    if weight.shape != (expected := (statement.hidden, dimension)):
        raise CorruptFileError(f"expected {expected}, got {weight.shape}")
    if embedding_digest(weight).hex() != statement.digest:
        raise SignatureError("expected the embedding that the statement names")
    return StoredIssue(statement, weight)


class ModelStore:
    """The folders `backbones` and `issued`."""

    def __init__(self, folder: Path) -> None:
        self._backbones = folder / "backbones"
        self._issued = folder / "issued"
        for part in (self._backbones, self._issued):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save_backbone(
        self, name: ModelName, manifest: Manifest, content: bytes
    ) -> None:
        """Keep a checked backbone; durable on return."""
        facts = {
            "model": name.model,
            "model_version": name.version,
            "manifest": manifest.to_bytes().decode(),
        }
        _write_pair(self._backbones / _file(name.model, name.version), facts, content)

    def backbone_file(self, name: ModelName) -> bytes:
        """A backbone as its provider uploaded it. Raises `NotFound`."""
        path = self._backbones / _file(name.model, name.version)
        content = _with_suffix(path, ".safetensors")
        if not content.is_file():
            raise NotFound("no such backbone is kept here")
        return read_file(content)

    def save_issue(
        self, statement: bytes, signature: bytes, content: bytes, signer: str
    ) -> None:
        """Keep a checked issued embedding; durable on return.

        Whose signature it is is kept, but not the public key: who can change the files
        could change that too. It comes from the registry again; see `stock`.
        """
        facts = {
            "statement": statement.decode(),
            "signature": signature.hex(),
            "signer": signer,
        }
        name = IssuedName.of(IssueStatement.from_bytes(statement))
        _write_pair(self._issued_path(name), facts, content)

    def read_issue(self, statement: IssueStatement) -> StoredIssue:
        """Read the embedding that a statement binds, and check it against that.

        It is read whole: its digest is over all of it, and it is small.
        """
        path = self._issued_path(IssuedName.of(statement))
        return read_issue(statement, read_file(_with_suffix(path, ".safetensors")))

    def delete_issue(self, name: IssuedName) -> None:
        """Delete an issued embedding; deleting it twice is not an error."""
        path = self._issued_path(name)
        try:
            for suffix in (".json", ".safetensors"):
                _with_suffix(path, suffix).unlink(missing_ok=True)
            _sync_folder(self._issued)
        except OSError as error:
            raise StorageError("cannot delete an issued model") from error

    def load_backbones(
        self, on_corrupt: OnCorrupt, *, tidy: bool = True
    ) -> Iterator[StoredBackbone]:
        """Every backbone that is still what its manifest says.

        Leftovers are deleted; who only looks at a server's folder is not `tidy`.
        """
        if tidy:
            _drop_leftovers(self._backbones)
        yield from _load_all(self._backbones, _load_backbone, on_corrupt)

    def load_issues(
        self, on_corrupt: OnCorrupt, *, tidy: bool = True
    ) -> Iterator[KeptIssue]:
        """Every issued embedding that is still what its statement says.

        Who made the statement is not verified here. `tidy` as of backbones.
        """
        if tidy:
            _drop_leftovers(self._issued)
        yield from _load_all(self._issued, _load_issue, on_corrupt)

    def _issued_path(self, name: IssuedName) -> Path:
        key = _file(name.key_id, name.key_version)
        return self._issued / f"{key}--{_file(name.model, name.model_version)}"


def _load_backbone(facts: bytes, content: bytes) -> StoredBackbone:
    fields = {"model": str, "model_version": int, "manifest": str}
    document = take_fields(parse(facts), fields)
    manifest = Manifest.from_bytes(document["manifest"].encode())
    name = ModelName(document["model"], document["model_version"])
    return read_backbone(name, manifest, content)


def _load_issue(facts: bytes, content: bytes) -> KeptIssue:
    fields = {"statement": str, "signature": str, "signer": str}
    document = take_fields(parse(facts), fields)
    statement = document["statement"].encode()
    issue = read_issue(IssueStatement.from_bytes(statement), content)
    return KeptIssue(
        issue, statement, _from_hex(document["signature"]), document["signer"]
    )


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise CorruptFileError("signature: expected hex digits") from error


def _load_all(
    folder: Path, load: Callable[[bytes, bytes], _Stored], on_corrupt: OnCorrupt
) -> Iterator[_Stored]:
    """Load each pair; tell of those that cannot be served, and leave them there."""
    for facts in sorted(folder.glob("*.json")):
        try:
            yield load(read_file(facts), read_file(facts.with_suffix(".safetensors")))
        except KeymixerError as error:
            log.exception("not served", extra={"file": facts.stem})
            on_corrupt(facts.stem, error)


def _drop_leftovers(folder: Path) -> None:
    """Delete embeddings whose JSON is gone, and writes a crash left unfinished."""
    named = {path.stem for path in folder.glob("*.json")}
    leftovers = [p for p in folder.glob("*.safetensors") if p.stem not in named]
    for path in (*leftovers, *folder.glob(".*")):
        with suppress(OSError):
            path.unlink()


def _write_pair(path: Path, facts: Mapping[str, object], content: bytes) -> None:
    write_atomically(_with_suffix(path, ".safetensors"), content, mode=0o600)
    write_atomically(_with_suffix(path, ".json"), canonical(facts), mode=0o600)


def _with_suffix(path: Path, suffix: str) -> Path:
    """Like `path.with_suffix`, for names that may hold dots."""
    return path.with_name(path.name + suffix)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file(identifier: str, version: int) -> str:
    """A file name that no identifier can escape from."""
    return f"{quote(identifier, safe='')}-{version}"

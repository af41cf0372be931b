"""What is served now: backbones, and the embeddings issued for each key version."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from core.errors import KeyRefusedError, NotFound
from core.manifest import Manifest
from parties.inference_server.embeddings import Embeddings
from parties.inference_server.engine import Backbone, Engine
from parties.inference_server.store import (
    IssuedName,
    ModelName,
    StoredBackbone,
    StoredIssue,
)


@dataclass(frozen=True, slots=True)
class ReadyBackbone:
    """A model version that can answer."""

    manifest: Manifest
    backbone: Backbone


@dataclass(frozen=True, slots=True)
class Served:
    """A model version as issued for one key version."""

    name: IssuedName
    model: ReadyBackbone
    issue: StoredIssue


class Catalogue:
    """Finds what a request asks for; many threads may ask at once."""

    def __init__(self, engine: Engine, embeddings: Embeddings | None = None) -> None:
        self._engine = engine
        self._backbones: Mapping[ModelName, ReadyBackbone] = {}
        self._embeddings = embeddings or Embeddings()
        self._changing = Lock()

    def prepare(self, stored: StoredBackbone) -> ReadyBackbone:
        """Load a backbone, not served yet. Raises `CorruptFileError` if it cannot."""
        architecture = stored.manifest.architecture
        backbone = self._engine.load(architecture, stored.tensors)
        return ReadyBackbone(stored.manifest, backbone)

    def serve(self, name: ModelName, ready: ReadyBackbone) -> None:
        """Let a prepared backbone answer."""
        with self._changing:
            self._backbones = {**self._backbones, name: ready}

    def add_backbone(self, stored: StoredBackbone) -> None:
        """Prepare a backbone and serve it."""
        self.serve(stored.name, self.prepare(stored))

    def add_issue(self, stored: StoredIssue) -> None:
        self._embeddings.add(stored)

    def remove_issue(self, name: IssuedName) -> None:
        """Stop serving an issued model; the next request is refused."""
        self._embeddings.remove(name)

    def has(self, name: IssuedName) -> bool:
        """Whether this issued model is served, with its backbone."""
        model = ModelName(name.model, name.model_version)
        return model in self._backbones and name in self._embeddings

    def versions(self, model: str) -> list[int]:
        """The versions of a model that are here, oldest first. Raises `NotFound`."""
        versions = sorted(n.version for n in self._backbones if n.model == model)
        if not versions:
            raise NotFound("no such model is served here")
        return versions

    def backbone(self, model: str, version: int) -> ReadyBackbone:
        """One model version. Raises `NotFound`."""
        try:
            return self._backbones[ModelName(model, version)]
        except KeyError as error:
            raise NotFound("no such model version is served here") from error

    def find(
        self, model: str, version: int | None, key_id: str, key_version: int
    ) -> Served:
        """The model as issued for a key version; without a version, the newest issued.

        Raises:
            NotFound: for a model that is not here.
            KeyRefusedError: when nothing of it is issued for this key version.
            StorageError: when what is issued cannot be read from disk.
        """
        known = self.versions(model) if version is None else [version]
        for candidate in reversed(known):
            ready = self.backbone(model, candidate)
            name = IssuedName(key_id, key_version, model, candidate)
            issue = self._embeddings.find(name)
            if issue is not None:
                return Served(name, ready, issue)
        raise KeyRefusedError("no model is issued for this key version")

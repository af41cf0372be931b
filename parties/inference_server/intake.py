"""Take backbones from providers and issued embeddings from the key holder.

Nothing is believed because it arrived: a backbone must be the one that its provider
signed, an issued embedding the one that the key holder signed and the registry lists.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from typing import Protocol

from core.architecture import Architecture
from core.errors import (
    KeyMismatchError,
    NotFound,
    SignatureError,
    TooLargeError,
)
from core.manifest import Manifest
from core.statements import ISSUE, MANIFEST, IssueStatement, verify
from parties.inference_server.catalogue import Catalogue
from parties.inference_server.errors import UploadError
from parties.inference_server.store import (
    IssuedName,
    ModelName,
    ModelStore,
    read_backbone,
    read_issue,
)
from parties.registry import Registry, active_party, issued_in_use, manifest_from
from protos import model_store_pb2 as pb
from protos import registry_pb2 as registry_pb

_MAY_BE_STORED = frozenset({"pending", "live"})


class SignedIssue(Protocol):
    """An issued model on its way: sent, or fetched."""

    @property
    def statement(self) -> bytes: ...

    @property
    def signature(self) -> bytes: ...

    @property
    def embedding(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Intake:
    """Checks what is delivered, has it recorded, keeps it on disk, and has it served.

    The record comes before the effect: what the log does not know is neither kept nor
    served. After a crash in between there is a record without effect; the sender, who
    got no answer, sends again.
    """

    store: ModelStore
    catalogue: Catalogue
    registry: Registry
    max_backbone_bytes: int
    # Held while an issued model comes or goes: what the registry said of it must still
    # be true when it is kept.
    issuing: Lock = field(default_factory=Lock, init=False, repr=False)

    def take_backbone(
        self,
        provider: str,
        chunks: Iterable[pb.StoreBackboneRequest],
        record: Callable[[ModelName, str], None],
    ) -> None:
        """Store and serve a release's backbone, its name and digest once recorded."""
        name, contents = open_upload(chunks)
        manifest = manifest_from(self.registry, provider, name.model, name.version)
        content = gather(contents, self.max_backbone_bytes)
        ready = self.catalogue.prepare(read_backbone(name, manifest, content))
        # Uploads take minutes: the provider may have been revoked meanwhile.
        active_party(self.registry, provider)
        record(name, manifest.backbone_digest)
        self.store.save_backbone(name, manifest, content)
        self.catalogue.serve(name, ready)

    def take_fetched_backbone(
        self, name: ModelName, content: bytes, record: Callable[[ModelName, str], None]
    ) -> None:
        """Store and serve a backbone that a replica gave, as its provider signed it.

        The provider need not be there any more: its release still is.
        """
        registered = self.registry.model_version(name.model, name.version)
        signing_key = self.registry.party(registered.provider).signing_key
        verify(signing_key, MANIFEST, registered.manifest, registered.signature)
        manifest = Manifest.from_bytes(registered.manifest)
        ready = self.catalogue.prepare(read_backbone(name, manifest, content))
        record(name, manifest.backbone_digest)
        self.store.save_backbone(name, manifest, content)
        self.catalogue.serve(name, ready)

    def take_issue(
        self,
        key_holder: str,
        issue: SignedIssue,
        record: Callable[[IssueStatement], None],
    ) -> None:
        """Store and serve an issued embedding, once it is recorded what it is."""
        self._take_issue(key_holder, issue, record, _require_listed)

    def take_fetched_issue(
        self,
        key_holder: str,
        issue: SignedIssue,
        record: Callable[[IssueStatement], None],
    ) -> None:
        """`take_issue`, of one that is live already, under a key version in use.

        What is about to be deleted everywhere is not in use any more: it is not taken.
        """
        self._take_issue(key_holder, issue, record, _require_in_use)

    def _take_issue(
        self,
        key_holder: str,
        issue: SignedIssue,
        record: Callable[[IssueStatement], None],
        require: Callable[[Registry, IssueStatement], None],
    ) -> None:
        signing_key = active_party(self.registry, key_holder).signing_key
        verify(signing_key, ISSUE, issue.statement, issue.signature)
        facts = IssueStatement.from_bytes(issue.statement)
        ready = self.catalogue.backbone(facts.model, facts.model_version)
        _require_fit(ready.manifest.architecture, facts)
        stored = read_issue(facts, issue.embedding)
        # A deletion must not slip in between the registry's word and the file.
        with self.issuing:
            require(self.registry, facts)
            record(facts)
            self.store.save_issue(
                issue.statement, issue.signature, issue.embedding, key_holder
            )
            self.catalogue.add_issue(stored)

    def drop_issue(self, name: IssuedName) -> None:
        """Delete an issued embedding from memory and disk."""
        with self.issuing:
            self.catalogue.remove_issue(name)
            self.store.delete_issue(name)


def open_upload(
    chunks: Iterable[pb.StoreBackboneRequest],
) -> tuple[ModelName, Iterator[bytes]]:
    """The model version an upload names, and its contents, which must stay with it."""
    stream = iter(chunks)
    first = next(stream, None)
    if first is None or not first.model or first.model_version < 1:
        raise UploadError("expected a model version in the first chunk")
    name = ModelName(first.model, first.model_version)
    return name, (_content(name, chunk) for chunk in chain([first], stream))


def gather(contents: Iterable[bytes], max_bytes: int) -> bytes:
    """Join an upload, and stop reading once it is over the limit."""
    whole = bytearray()
    for content in contents:
        whole += content
        if len(whole) > max_bytes:
            raise TooLargeError(f"expected at most {max_bytes} bytes")
    return bytes(whole)


def name_of(listed: registry_pb.IssuedModel) -> IssuedName:
    """What a line of the registry's list is about."""
    return IssuedName(
        listed.key_id, listed.key_version, listed.model, listed.model_version
    )


def require_same(listed: registry_pb.IssuedModel, facts: IssueStatement) -> None:
    """Raise `SignatureError` unless the registry and the key holder say the same."""
    if (listed.digest.hex(), listed.owner) != (facts.digest, facts.owner):
        raise SignatureError("the registry lists another digest or owner")


def _content(name: ModelName, chunk: pb.StoreBackboneRequest) -> bytes:
    named = ModelName(chunk.model, chunk.model_version)
    if named not in (name, ModelName("", 0)):
        raise UploadError("a chunk names another model version")
    return chunk.chunk


def _require_listed(registry: Registry, facts: IssueStatement) -> None:
    """The registry must know this issued model, for this owner, with this digest."""
    for listed in registry.issued_models(facts.key_id, facts.key_version):
        if name_of(listed) == IssuedName.of(facts) and listed.state in _MAY_BE_STORED:
            require_same(listed, facts)
            return
    raise NotFound("the registry lists no such issued model")


def _require_in_use(registry: Registry, facts: IssueStatement) -> None:
    names = (facts.key_id, facts.key_version, facts.model, facts.model_version)
    require_same(issued_in_use(registry, *names), facts)


def _require_fit(architecture: Architecture, facts: IssueStatement) -> None:
    expected = (architecture.patch_size, architecture.channels, architecture.hidden)
    got = (facts.patch_size, facts.channels, facts.hidden)
    if got != expected:
        raise KeyMismatchError(
            f"patch, channels, hidden: expected {expected}, got {got}"
        )

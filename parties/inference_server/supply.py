"""What a replica lacks, fetched when it is asked for; the registry says what there is.

Replicas of the inference server share nothing but the registry. One that was away, or
that begins with an empty disk, is not told again what it missed: a backbone it fetches
from the other replicas, an issued embedding from the key holder, and it believes
neither more than what is uploaded. So any replica can answer whatever is live.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

from core.errors import KeymixerError, KeyRefusedError, NotAllowedError, NotFound
from core.statements import IssueStatement
from parties.inference_server.errors import NotHereYetError
from parties.inference_server.intake import Intake, SignedIssue, name_of
from parties.inference_server.store import IssuedName, ModelName
from parties.registry import SERVED, issued_in_use
from protos import registry_pb2 as pb

log = logging.getLogger(__name__)

# How long a request waits for what others have fetched before it; then its caller is
# told to ask another replica.
_TURN_S: Final = 10.0

RecordBackbone = Callable[[ModelName, str], None]
RecordIssue = Callable[[IssueStatement], None]


class Source(Protocol):
    """The parties that have what a replica lacks."""

    def backbone(self, name: ModelName) -> bytes:
        """`backbone.safetensors` of a model version, from another replica."""
        ...

    def issue(self, name: IssuedName) -> SignedIssue:
        """An issued model, from the key holder."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request is about; without a version, the newest."""

    owner: str
    model: str
    model_version: int | None
    key_id: str
    key_version: int


@dataclass(frozen=True, slots=True)
class Supply:
    """Fetches one thing at a time: the key holder makes few at once as well.

    Args:
        intake: Checks what is fetched, keeps it and has it served.
        source: Who has it.
        key_holder: Who must have signed issued models.
        record_backbone: Has it recorded that a backbone is to be kept.
        record_issue: The same, of an issued model.
    """

    intake: Intake
    source: Source
    key_holder: str
    record_backbone: RecordBackbone
    record_issue: RecordIssue
    _turn: Lock = field(default_factory=Lock, init=False, repr=False)

    def obtain(self, wanted: Wanted) -> None:
        """Have what is wanted served here, if it is live; else do nothing.

        Raises:
            NotAllowedError: it was issued for another owner.
        KeyRefusedError: the key version is not in use any more.
            NotHereYetError: it is live, and cannot be had now.
        """
        listed = self._listed(wanted)
        if listed is None:
            return
        if listed.owner != wanted.owner:
            raise NotAllowedError("the key belongs to another owner")
        with self._fetching():
            self._obtain(name_of(listed))

    def stock_up(self, models: Iterable[ModelName]) -> None:
        """Fetch the backbones that are missing; what nobody has may come later."""
        for name in sorted(set(models), key=lambda each: (each.model, each.version)):
            try:
                self._obtain_backbone(name)
            except KeymixerError as error:
                said = {"model": name.model, "model_version": name.version}
                log.warning("not here yet", extra=said | {"kind": error.kind})

    def _listed(self, wanted: Wanted) -> pb.IssuedModel | None:
        registry = self.intake.registry
        found = [
            each
            for each in registry.issued_models(wanted.key_id, wanted.key_version)
            if each.model == wanted.model
            and each.state in SERVED
            and wanted.model_version in (None, each.model_version)
        ]
        return max(found, key=lambda each: each.model_version, default=None)

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise NotHereYetError("others wait for what they lack")
        try:
            yield
        except KeyRefusedError:
            raise
        except KeymixerError as error:
            log.warning("not to be had", extra={"kind": error.kind, "why": str(error)})
            raise NotHereYetError("it is live, and cannot be had now") from error
        finally:
            self._turn.release()

    def _obtain(self, name: IssuedName) -> None:
        """Unless somebody else was faster."""
        if self.intake.catalogue.has(name):
            return
        names = (name.key_id, name.key_version, name.model, name.model_version)
        issued_in_use(self.intake.registry, *names)
        self._obtain_backbone(ModelName(name.model, name.model_version))
        issue = self.source.issue(name)
        self.intake.take_fetched_issue(self.key_holder, issue, self.record_issue)

    def _obtain_backbone(self, name: ModelName) -> None:
        try:
            self.intake.catalogue.backbone(name.model, name.version)
        except NotFound:
            content = self.source.backbone(name)
            self.intake.take_fetched_backbone(name, content, self.record_backbone)

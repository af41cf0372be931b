"""What a former run left on disk, served again once the registry has confirmed it.

The files alone prove little: who can change them can change what lies beside them. So
nothing of them is served before the first contact with the orchestrator. Then each
backbone must have the manifest that is registered, and each issued embedding must be
listed, with this digest, and carry a signature of the key holder under the key that is
registered now. The key is not pinned beside the files: it would prove no more than
they do, and without the orchestrator there is no answer to any request anyway.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from core.errors import (
    KeymixerError,
    NotAllowedError,
    PeerUnavailable,
    SignatureError,
    Unavailable,
)
from core.rpc.identity import KEY_HOLDER, SpiffeId
from core.statements import ISSUE, verify
from parties.audit import Reporter
from parties.inference_server.intake import Intake, name_of, require_same
from parties.inference_server.store import (
    IssuedName,
    KeptIssue,
    ModelName,
    StoredBackbone,
)
from parties.registry import active_party
from protos import registry_pb2 as pb

log = logging.getLogger(__name__)

_MAY_BE_KEPT = frozenset({"pending", "live", "retiring"})


@dataclass(frozen=True, slots=True)
class Stock:
    """Takes stock at a start. What fails is told to the log, and left where it is.

    Args:
        intake: Whose store and catalogue it is.
        reporter: Is told what is not served, and why.
        key_holder: The one that may sign; None: any that is registered.
    """

    intake: Intake
    reporter: Reporter
    key_holder: SpiffeId | None = None
    _signing_keys: dict[str, bytes] = field(
        default_factory=dict, init=False, repr=False
    )

    def take(self) -> set[ModelName]:
        """Serve what may be served, and delete issued models that are no longer listed.

        Returns:
            The model versions that are issued to somebody.

        Raises:
            Unavailable: the registry does not answer; take stock again later.
        """
        store = self.intake.store
        for backbone in store.load_backbones(self._tell):
            self._serve_backbone(backbone)
        # A deletion must not slip in between the registry's word and the catalogue.
        with self.intake.issuing:
            listed = _by_name(self.intake.registry.issued_models())
            for kept in store.load_issues(self._tell):
                self._serve_issue(kept, listed)
        return {ModelName(name.model, name.model_version) for name in listed}

    def _serve_backbone(self, stored: StoredBackbone) -> None:
        name = stored.name
        try:
            registered = self.intake.registry.model_version(name.model, name.version)
            if registered.manifest != stored.manifest.to_bytes():
                raise SignatureError("another manifest is registered for it")
            self.intake.catalogue.add_backbone(stored)
        except Unavailable:
            raise
        except KeymixerError as error:
            self._tell(f"{name.model}-{name.version}", error)

    def _serve_issue(
        self, kept: KeptIssue, listed: Mapping[IssuedName, pb.IssuedModel]
    ) -> None:
        statement = kept.issue.statement
        name = IssuedName.of(statement)
        if name not in listed:
            self._delete_unlisted(name)
            return
        try:
            require_same(listed[name], statement)
            self._verify(kept)
            self.intake.catalogue.add_issue(kept.issue)
        except Unavailable:
            raise
        except KeymixerError as error:
            self._tell(f"{name.key_id}-{name.key_version}", error)

    def _delete_unlisted(self, name: IssuedName) -> None:
        """Finish a deletion of which this server never heard.

        Nothing brings it back, so the registry is asked about just this one once more.
        """
        asked_again = self.intake.registry.issued_models(name.key_id, name.key_version)
        if name in _by_name(asked_again):
            raise PeerUnavailable("the registry lists it now, and did not a moment ago")
        self.intake.store.delete_issue(name)
        facts = {field: str(value) for field, value in asdict(name).items()}
        self.reporter.report("issued.deleted", facts | {"why": "not listed"})
        log.warning("deleted what the registry does not list", extra=facts)

    def _verify(self, kept: KeptIssue) -> None:
        key = self._signing_key(kept.signer)
        verify(key, ISSUE, kept.statement, kept.signature)

    def _signing_key(self, signer: str) -> bytes:
        """The registered key of the key holder that is said to have signed."""
        if signer not in self._signing_keys:
            holder = SpiffeId.parse(signer)
            if holder.role != KEY_HOLDER or holder != (self.key_holder or holder):
                raise NotAllowedError(f"{signer} signs no issued models")
            party = active_party(self.intake.registry, signer)
            self._signing_keys[signer] = party.signing_key
        return self._signing_keys[signer]

    def _tell(self, name: str, error: KeymixerError) -> None:
        log.error("not served", extra={"stored": name, "kind": error.kind})
        self.reporter.refused(
            caller="", method="start", kind=error.kind, subject={"file": name}
        )


def _by_name(listed: Iterable[pb.IssuedModel]) -> dict[IssuedName, pb.IssuedModel]:
    """Those that this server may hold."""
    return {name_of(each): each for each in listed if each.state in _MAY_BE_KEPT}

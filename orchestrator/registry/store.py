"""The registry's rows: found by name, and changed together with their audit records.

A `Change` is one transaction of one actor. Functions that take one alter rows and
record it; functions that take a `Session` only read.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import Event
from typing import Final, TypeVar

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, contains_eager, joinedload

from core.database import Database
from core.database.fixed import Fixed, Rows
from core.errors import (
    Conflict,
    InvalidInput,
    NotAllowedError,
    NotFound,
    SignatureError,
)
from core.manifest import Manifest
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    SpiffeId,
)
from core.sealing import check_public_key, fingerprint
from core.statements import MANIFEST, verify
from orchestrator.audit.notes import check_reason
from orchestrator.audit.records import Fact
from orchestrator.audit.writer import AuditLog, log_size
from orchestrator.registry.lifecycle import (
    USABLE,
    KeyAction,
    KeyState,
    PartyState,
    next_state,
)
from orchestrator.registry.models import (
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelAlias,
    ModelVersion,
    Organisation,
    Party,
)

T = TypeVar("T")

CHAMPION: Final = "champion"
# Issued beside the champion, for a share of each owner's requests.
CANDIDATE: Final = "candidate"
ISSUED: Final = frozenset({CHAMPION, CANDIDATE})
# The most rows in one answer: even parties with the longest keys fit a message.
LARGEST_PAGE: Final = 2000
SEES_ALL_KEYS: Final = frozenset({OPERATOR, KEY_HOLDER, INFERENCE_SERVER})
SEE_NO_OTHER_OWNERS: Final = frozenset({DATA_OWNER, MODEL_PROVIDER})
SEEN_BY_ALL: Final = frozenset(
    {ORCHESTRATOR, KEY_HOLDER, INFERENCE_SERVER, MODEL_PROVIDER}
)

# Asked about every caller of every call.
_STATE: Final = Fixed(select(Party.state).where(Party.spiffe_id == bindparam("party")))

_SIGNING_KEY_BYTES: Final = 32
_SEALING_KEY_BYTES_AT_MOST: Final = 4096
_ALIAS_LENGTH: Final = 64
# In a session: this transaction gives the workflows something to do.
_WORK: Final = "keymixer_work"


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction: what it alters and what it records are durable together."""

    session: Session
    log: AuditLog
    actor: str
    now_ms: int
    # Facts that every record of this change says beside its own, such as the job.
    about: Mapping[str, Fact] = field(default_factory=dict)

    def record(
        self, kind: str, facts: Mapping[str, Fact], parties: Iterable[str] = ()
    ) -> int:
        """Append a record by this change's actor; `parties` may read it too."""
        told = {**self.about, **facts}
        return self.log.append(self.session, kind, self.actor, told, parties)

    def has_work(self) -> None:
        """Have the workflows look for what is due, once this is durable."""
        self.session.info[_WORK] = True


@dataclass(frozen=True, slots=True)
class Registry:
    """Opens transactions on the registry, for active parties and for ourselves."""

    database: Database
    log: AuditLog
    clock: Callable[[], int]
    # The orchestrator's own SPIFFE ID.
    own: SpiffeId
    # Set once there is something to do for the workflows; they clear it.
    work: Event = field(default_factory=Event)

    @contextmanager
    def change(self, caller: SpiffeId) -> Iterator[Change]:
        """Change the registry for a party.

        Raises:
            NotAllowedError: the caller is not enrolled, or was revoked.
        """
        with self.own_change() as change:
            _require_active(change.session, str(caller))
            yield Change(change.session, self.log, str(caller), change.now_ms)

    def change_together(self, caller: SpiffeId, work: Callable[[Change], T]) -> T:
        """Change the registry for a party as `change` does; others share the commit.

        `work` changes the registry and does nothing else: it may run twice.
        """

        def changed(session: Session) -> tuple[T, bool]:
            _require_active(session, str(caller))
            done = work(Change(session, self.log, str(caller), self.clock()))
            return done, _WORK in session.info

        done, has_work = self.database.together(changed)
        if has_work:
            self.work.set()
        return done

    @contextmanager
    def own_change(self) -> Iterator[Change]:
        """Change the registry as the orchestrator itself."""
        with self.database.transaction() as session:
            yield Change(session, self.log, str(self.own), self.clock())
        if _WORK in session.info:
            self.work.set()

    @contextmanager
    def reading(self, caller: SpiffeId) -> Iterator[Session]:
        """Read for a party; `NotAllowedError` as in `change`."""
        with self.database.reading() as session:
            _require_active(session, str(caller))
            yield session

    def admit(self, caller: SpiffeId) -> None:
        """Return if the caller may call at all: a check for `serve(admit=...)`."""
        found = self.database.look(_STATE, {"party": str(caller)})
        _check_active(str(caller), found)


@dataclass(frozen=True, slots=True)
class PartyStanding:
    """Whether a party may take part."""

    spiffe_id: str
    state: str


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """Whether a key version may be used, and until when if it is retiring."""

    key_id: str
    version: int
    owner: str
    model: str
    state: str
    retire_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What changed, as one instant saw it; ask since `revision` next time."""

    revision: int
    parties: Sequence[PartyStanding]
    keys: Sequence[KeyStanding]


def enrol(change: Change, spiffe: SpiffeId) -> Party:
    """Make a party known; one that is known already is left as it is."""
    query = select(Party).where(Party.spiffe_id == str(spiffe))
    if known := change.session.scalar(query):
        return known
    party = Party(
        spiffe_id=str(spiffe),
        organisation=_organisation(change.session, spiffe.organisation),
        role=spiffe.role,
        state=PartyState.ACTIVE,
        revision=log_size(change.session),
        created_at_ms=change.now_ms,
    )
    change.session.add(party)
    facts = {"party": str(spiffe), "role": spiffe.role}
    change.record("party.enrolled", facts, [str(spiffe)])
    return party


def enrol_all(change: Change, parties: Iterable[SpiffeId]) -> None:
    """Make parties known; those that are known already are left as they are."""
    known = set(change.session.scalars(select(Party.spiffe_id)))
    for spiffe in parties:
        if str(spiffe) not in known:
            enrol(change, spiffe)


def revoke_party(change: Change, spiffe_id: str, reason: str) -> Party:
    """Take a party out of the federation for good; one that is out is left as it is.

    Its calls are refused from the next one on. Its keys are left as they are.

    Raises:
        NotFound: no such party.
        Conflict: it is the orchestrator, or the last operator: nobody could command.
        InvalidInput: the reason is blank or long.
    """
    check_reason(reason)
    party = _party_named(change.session, spiffe_id)
    if party.state == PartyState.REVOKED:
        return party
    _require_dispensable(change, party)
    party.state, party.revision = PartyState.REVOKED, log_size(change.session)
    facts = {"party": spiffe_id, "role": party.role, "reason": reason}
    change.record("party.revoked", facts, [spiffe_id])
    return party


def register_public_keys(
    change: Change, signing_key: bytes, sealing_key: bytes
) -> Party:
    """Register the actor's public keys: the first set stays for good.

    Raises:
        Conflict: another set is registered already.
        InvalidInput: a key has the wrong length, or is no key.
    """
    _check_public_keys(signing_key, sealing_key)
    party = active_party(change.session, change.actor)
    known = (party.signing_key or b"", party.sealing_key or b"")
    if known == (signing_key, sealing_key):
        return party
    if any(known):
        raise Conflict(f"{change.actor} has registered other public keys")
    party.signing_key = signing_key
    party.sealing_key = sealing_key or None
    facts = {"party": change.actor, "signing_key": signing_key.hex()}
    if sealing_key:
        facts["sealing_key_sha256"] = fingerprint(sealing_key)
    change.record("party.keys_registered", facts)
    return party


def register_model_version(
    change: Change, manifest: bytes, signature: bytes
) -> ModelVersion:
    """Register the actor's release under the next version of its name.

    The same manifest once more is the version it already is.

    Raises:
        SignatureError: the actor's registered key did not sign this manifest.
        TooLargeError: the manifest is longer than `core.manifest.MAX_BYTES`.
        NotAllowedError: the name belongs to another provider.
    """
    provider = active_party(change.session, change.actor)
    verify(_signing_key(provider), MANIFEST, manifest, signature)
    read = Manifest.from_bytes(manifest)
    model = _model_of(change.session, read.name, provider)
    digest = hashlib.sha256(manifest).digest()
    if known := _released(change.session, model, digest):
        return known
    version = ModelVersion(
        model=model,
        version=_latest_version(change.session, model) + 1,
        manifest=manifest,
        manifest_digest=digest,
        signature=signature,
        embedding_digest=bytes.fromhex(read.embedding_digest),
        backbone_digest=bytes.fromhex(read.backbone_digest),
        public_embedding=read.public_embedding,
        parent_id=_parent_id(change.session, model, read),
        created_at_ms=change.now_ms,
    )
    change.session.add(version)
    facts = {**model_facts(version), "manifest_sha256": digest.hex()}
    change.record("model.registered", facts)
    return version


def set_alias(change: Change, name: str, alias: str, version: int) -> bool:
    """Move an alias; to where it points already is no change.

    Returns:
        Whether it pointed elsewhere, or nowhere.

    Raises:
        NotAllowedError: the actor is a provider, and the model another's.
        NotFound: no such model version.
        Conflict: its embedding is exposed, so that it cannot be issued to anybody.
    """
    if not 0 < len(alias) <= _ALIAS_LENGTH:
        raise InvalidInput(f"alias: expected 1 to {_ALIAS_LENGTH} characters")
    target = model_version(change.session, name, version)
    actor = active_party(change.session, change.actor)
    if actor.role == MODEL_PROVIDER and target.model.provider_party_id != actor.id:
        raise NotAllowedError("the model belongs to another provider")
    row = change.session.get(ModelAlias, (target.model_id, alias))
    if row is None:
        row = ModelAlias(model_id=target.model_id, alias=alias, version=0)
        change.session.add(row)
    if row.version == version:
        return False
    if alias in ISSUED and target.exposed_at_ms is not None:
        raise Conflict(
            f"the embedding of version {version} is exposed: train the model again "
            f"from a fresh secret start, and make that version the {alias}"
        )
    row.version = version
    facts = {**model_facts(target), "alias": alias}
    change.record("alias.moved", facts, [target.model.provider.spiffe_id])
    return True


def move(
    change: Change,
    version: KeyVersion,
    action: KeyAction,
    kind: str,
    **facts: Fact,
) -> None:
    """Move a key version along the table of states and record it as `kind`.

    Its `revision` is the log's size before that record, so whoever asks "since R?",
    where R is the log's size at the last answer, gets all that moved after it.

    Raises:
        TransitionRefused: its state does not allow the action.
    """
    version.state = next_state(version.state, action)
    version.changed_at_ms = change.now_ms
    version.revision = log_size(change.session)
    record_key(change, version, kind, **facts)


def record_key(change: Change, version: KeyVersion, kind: str, **facts: Fact) -> int:
    """Record something about a key version; its owner may read it."""
    owner = version.key.owner.spiffe_id
    return change.record(kind, {**key_facts(version), **facts}, [owner])


def key_facts(version: KeyVersion) -> dict[str, Fact]:
    """What every record about a key version says."""
    return {
        "owner": version.key.owner.spiffe_id,
        "model": version.key.model.name,
        "key_id": version.key.key_id,
        "key_version": version.version,
        "state": str(version.state),
    }


def model_facts(version: ModelVersion) -> dict[str, Fact]:
    """What every record about a model version says."""
    facts: dict[str, Fact] = {
        "model": version.model.name,
        "model_version": version.version,
    }
    return {**facts, **embedding_facts(version)}


def embedding_facts(version: ModelVersion) -> dict[str, Fact]:
    """What every record about a model version with a public embedding says besides."""
    return {"embedding": "public"} if version.public_embedding else {}


def active_party(session: Session, spiffe_id: str) -> Party:
    """The party of that name, or `NotAllowedError` if it may not take part."""
    party = session.scalar(select(Party).where(Party.spiffe_id == spiffe_id))
    if party is None:
        raise NotAllowedError(f"{spiffe_id} is not enrolled")
    if party.state != PartyState.ACTIVE:
        raise NotAllowedError(f"{spiffe_id} is {party.state}")
    return party


def parties_for(
    session: Session, caller: SpiffeId, only: str = "", *, after: int = 0
) -> Sequence[Party]:
    """A page of the parties a caller may see, in the order of enrolment.

    Args:
        session: The snapshot to read.
        caller: Who asks.
        only: A SPIFFE ID: no other party; empty: all.
        after: The id of the last row of the page before.

    An owner or a provider sees itself and whom it deals with, but no (other) owner.
    """
    query = select(Party).options(joinedload(Party.organisation)).order_by(Party.id)
    if caller.role in SEE_NO_OTHER_OWNERS:
        seen = Party.role.in_(SEEN_BY_ALL) | (Party.spiffe_id == str(caller))
        query = query.where(seen)
    if only:
        query = query.where(Party.spiffe_id == only)
    return session.scalars(query.where(Party.id > after).limit(LARGEST_PAGE)).all()


def standing_since(session: Session, since: int) -> Standing:
    """What has changed since the log had `since` records.

    From 0 on it is what a newcomer must know: every party, and the key versions that
    may be used. Those that ended, of which there are ever more, it need not know: what
    is not named is refused. For the same reason a version that was never used is left
    out, until it is.
    """
    parties = select(Party.spiffe_id, Party.state).where(Party.revision >= since)
    keys = _select_key_standing().where(KeyVersion.revision >= since)
    if since <= 0:
        keys = keys.where(KeyVersion.state.in_(USABLE))
    return Standing(
        revision=log_size(session),
        parties=[PartyStanding(*row) for row in session.execute(parties)],
        keys=[KeyStanding(*row) for row in session.execute(keys)],
    )


def model_named(session: Session, name: str) -> Model:
    """The model of that name, or `NotFound`."""
    model = session.scalar(select(Model).where(Model.name == name))
    if model is None:
        raise NotFound("no such model")
    return model


def model_version(session: Session, name: str, version: int) -> ModelVersion:
    """One version of a model, or `NotFound`."""
    query = _model_versions().where(Model.name == name)
    row = session.scalar(query.where(ModelVersion.version == version))
    if row is None:
        raise NotFound("no such model version")
    return row


def model_versions(session: Session, name: str = "") -> Sequence[ModelVersion]:
    """The versions of one model, or of all if `name` is empty; oldest first."""
    query = _model_versions()
    if name:
        query = query.where(Model.name == name)
    return session.scalars(query.order_by(ModelVersion.id)).all()


def aliases(session: Session) -> dict[tuple[int, int], list[str]]:
    """The aliases of every (model row, version), in alphabetical order."""
    found: dict[tuple[int, int], list[str]] = {}
    for row in session.scalars(select(ModelAlias).order_by(ModelAlias.alias)):
        found.setdefault((row.model_id, row.version), []).append(row.alias)
    return found


def champion(session: Session, model_id: int) -> ModelVersion | None:
    """The version that keys are issued for: the champion's, else the newest."""
    alias = session.get(ModelAlias, (model_id, CHAMPION))
    query = _model_versions().where(ModelVersion.model_id == model_id)
    if alias is not None:
        query = query.where(ModelVersion.version == alias.version)
    return session.scalar(query.order_by(ModelVersion.version.desc()).limit(1))


def key_of(session: Session, owner: str, model: str) -> Key | None:
    """The key of an owner for a model, if it ever had one."""
    query = select(Key).join(Key.owner).join(Key.model)
    return session.scalar(query.where(Party.spiffe_id == owner, Model.name == model))


def owner_of_key(session: Session, key_id: str) -> str:
    """The SPIFFE ID of a key's owner; empty if there is no such key."""
    query = select(Party.spiffe_id).join(Key, Key.owner_party_id == Party.id)
    return session.scalar(query.where(Key.key_id == key_id)) or ""


def key_version(session: Session, key_id: str, version: int) -> KeyVersion:
    """One version of a key, or `NotFound`."""
    query = select_key_versions().where(Key.key_id == key_id)
    row = session.scalar(query.where(KeyVersion.version == version))
    if row is None:
        raise NotFound("no such key version")
    return row


def versions_of(session: Session, key: Key) -> Sequence[KeyVersion]:
    """Every version a key ever had, oldest first."""
    query = select(KeyVersion).where(KeyVersion.key_pk == key.id)
    return session.scalars(query.order_by(KeyVersion.version)).all()


def key_versions_for(
    session: Session, caller: SpiffeId, key_id: str = "", *, after: int = 0
) -> Sequence[KeyVersion]:
    """A page of the key versions a caller may see, oldest first.

    An owner sees its own, once they can be fetched. With a `key_id` only that key's;
    `after` is the id of the last row of the page before.
    """
    query = select_key_versions().where(KeyVersion.id > after).order_by(KeyVersion.id)
    if caller.role == DATA_OWNER:
        query = query.where(
            Party.spiffe_id == str(caller), KeyVersion.commitment.is_not(None)
        )
    elif caller.role not in SEES_ALL_KEYS:
        raise NotAllowedError(f"a {caller.role} sees no keys")
    if key_id:
        query = query.where(Key.key_id == key_id)
    return session.scalars(query.limit(LARGEST_PAGE)).all()


def issued_models_for(
    session: Session,
    caller: SpiffeId,
    key_id: str = "",
    key_version: int = 0,
    *,
    after: int = 0,
) -> Sequence[IssuedModel]:
    """A page of the issued models a caller may see, oldest first.

    With a `key_id` only that key's, with a `key_version` only that version's; `after`
    is the id of the last row of the page before.
    """
    query = select_issued_models().where(IssuedModel.id > after)
    if caller.role == DATA_OWNER:
        query = query.where(Party.spiffe_id == str(caller))
    elif caller.role not in SEES_ALL_KEYS:
        raise NotAllowedError(f"a {caller.role} sees no issued models")
    if key_id:
        query = query.where(Key.key_id == key_id)
    if key_version:
        query = query.where(KeyVersion.version == key_version)
    query = query.order_by(IssuedModel.id).limit(LARGEST_PAGE)
    return session.scalars(query).all()


@cache
def select_key_versions() -> Select[KeyVersion]:
    """Key versions with their key, owner and model, to be filtered by any of them."""
    return (
        select(KeyVersion)
        .join(KeyVersion.key)
        .join(Key.owner)
        .join(Key.model)
        .options(
            contains_eager(KeyVersion.key).options(
                contains_eager(Key.owner), contains_eager(Key.model)
            )
        )
    )


@cache
def select_issued_models() -> Select[IssuedModel]:
    """Issued models with key version, owner, and model version, to be filtered."""
    return (
        select(IssuedModel)
        .join(IssuedModel.key_version)
        .join(KeyVersion.key)
        .join(Key.owner)
        .join(Key.model)
        .join(IssuedModel.model_version)
        .options(
            contains_eager(IssuedModel.model_version),
            contains_eager(IssuedModel.key_version)
            .contains_eager(KeyVersion.key)
            .options(contains_eager(Key.owner), contains_eager(Key.model)),
        )
    )


def _require_active(session: Session, spiffe_id: str) -> None:
    """As `active_party`, at the start of a transaction: nothing is changed yet."""
    _check_active(spiffe_id, _STATE.rows(session, {"party": spiffe_id}))


def _check_active(spiffe_id: str, found: Rows) -> None:
    if not found:
        raise NotAllowedError(f"{spiffe_id} is not enrolled")
    if (state := found[0][0]) != PartyState.ACTIVE:
        raise NotAllowedError(f"{spiffe_id} is {state}")


def _select_key_standing() -> Select[str, int, str, str, str, int | None]:
    return (
        select(
            Key.key_id,
            KeyVersion.version,
            Party.spiffe_id,
            Model.name,
            KeyVersion.state,
            KeyVersion.retire_at_ms,
        )
        .join(KeyVersion.key)
        .join(Key.owner)
        .join(Key.model)
        .where(KeyVersion.state != KeyState.PRE_ACTIVE)
    )


def _model_versions() -> Select[ModelVersion]:
    return (
        select(ModelVersion)
        .join(ModelVersion.model)
        .options(contains_eager(ModelVersion.model).joinedload(Model.provider))
    )


def _party_named(session: Session, spiffe_id: str) -> Party:
    party = session.scalar(select(Party).where(Party.spiffe_id == spiffe_id))
    if party is None:
        raise NotFound("no such party")
    return party


def _require_dispensable(change: Change, party: Party) -> None:
    """Refuse to put out those without whom nobody could be put out."""
    if party.role == ORCHESTRATOR:
        raise Conflict("the orchestrator cannot be revoked")
    operators = select(func.count()).where(
        Party.role == OPERATOR, Party.state == PartyState.ACTIVE
    )
    if party.role == OPERATOR and change.session.scalar(operators) == 1:
        raise Conflict("the last operator cannot be revoked: enrol another one first")


def _organisation(session: Session, name: str) -> Organisation:
    query = select(Organisation).where(Organisation.name == name)
    return session.scalar(query) or Organisation(name=name)


def _check_public_keys(signing_key: bytes, sealing_key: bytes) -> None:
    if len(signing_key) != _SIGNING_KEY_BYTES:
        raise InvalidInput(
            f"signing_key: expected {_SIGNING_KEY_BYTES} bytes, got {len(signing_key)}"
        )
    if len(sealing_key) > _SEALING_KEY_BYTES_AT_MOST:
        raise InvalidInput(
            f"sealing_key: at most {_SEALING_KEY_BYTES_AT_MOST} bytes, "
            f"got {len(sealing_key)}"
        )
    if sealing_key:
        check_public_key(sealing_key)


def _signing_key(party: Party) -> bytes:
    if party.signing_key is None:
        raise SignatureError(f"{party.spiffe_id} has registered no signing key")
    return party.signing_key


def _model_of(session: Session, name: str, provider: Party) -> Model:
    """The model of that name; a new name belongs to whoever uses it first."""
    model = session.scalar(select(Model).where(Model.name == name))
    if model is None:
        model = Model(name=name, provider=provider)
        session.add(model)
        session.flush()
    if model.provider_party_id != provider.id:
        raise NotAllowedError("the model belongs to another provider")
    return model


def _released(session: Session, model: Model, digest: bytes) -> ModelVersion | None:
    """The version of a model that has this manifest, the first if there are more."""
    query = _model_versions().where(
        ModelVersion.model_id == model.id, ModelVersion.manifest_digest == digest
    )
    return session.scalar(query.order_by(ModelVersion.version).limit(1))


def _latest_version(session: Session, model: Model) -> int:
    query = select(func.max(ModelVersion.version))
    return session.scalar(query.where(ModelVersion.model_id == model.id)) or 0


def _parent_id(session: Session, model: Model, manifest: Manifest) -> int | None:
    """The row of the parent version that the manifest's lineage names, if it does."""
    parent = manifest.lineage.get("parent")
    if type(parent) is not int:
        return None
    return model_version(session, model.name, parent).id

"""What a record may refer to: only what the log itself has introduced before it.

A log whose hashes and signatures all hold can still tell what cannot have happened: an
answer under a key that was revoked, a key of nobody. Read in order, each record is held
against the records before it, and nothing else is believed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from orchestrator.audit.admission import ANSWERS
from orchestrator.audit.decisions import RELEASED
from orchestrator.audit.events import KINDS
from orchestrator.audit.records import Entry, Fact
from orchestrator.errors import AuditBroken
from orchestrator.registry.lifecycle import TRANSITIONS, USABLE

# What a party says it did is its own word: it is held to nothing but the party.
_REPORTED: Final = frozenset().union(*KINDS.values())
_claim: Final = itemgetter("owner", "key_id", "key_version", "model", "model_version")
_STEPS: Final = frozenset((before, after) for (before, _), after in TRANSITIONS.items())


class KeyName(NamedTuple):
    """One version of one key."""

    key_id: Fact
    version: Fact


class ModelName(NamedTuple):
    """One version of one model."""

    model: Fact
    version: Fact


@dataclass(slots=True)
class KeyStory:
    """What the log says of a key version so far."""

    owner: Fact
    model: Fact
    state: Fact | None
    # The state of what was issued under it, by model version.
    issued: dict[Fact, Fact] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """What the records so far have introduced."""

    # Each party's role is in its name; whether it is still in is the value.
    parties: dict[Fact, bool] = field(default_factory=dict)
    signing_keys: dict[Fact, Fact] = field(default_factory=dict)
    # The digest of each release's manifest, in hex.
    releases: dict[ModelName, Fact] = field(default_factory=dict)
    grants: set[tuple[Fact, Fact]] = field(default_factory=set)
    keys: dict[KeyName, KeyStory] = field(default_factory=dict)
    approvals: set[Fact] = field(default_factory=set)
    # What may be answered as things stand: nearly every record asks that again.
    _admitted: set[tuple[str, tuple[Fact, ...]]] = field(default_factory=set)

    def add(self, entry: Entry) -> None:
        """Take in the next record.

        Raises:
            AuditBroken: if it cannot follow the records before it.
        """
        try:
            if entry.kind == RELEASED:
                self._release(entry)
            else:
                self._admitted.clear()
                self._check_actor(entry.actor)
                self._learn(entry)
        except _Unfounded as error:
            raise AuditBroken("record", entry.index, str(error)) from error

    def _release(self, entry: Entry) -> None:
        try:
            claim = _claim(entry.subject)
        except KeyError as error:
            raise _Unfounded("it releases an answer and does not say whose") from error
        if (entry.actor, claim) not in self._admitted:
            self._check_actor(entry.actor)
            self._check_claim(*claim)
            self._admitted.add((entry.actor, claim))

    def _check_claim(
        self,
        owner: Fact,
        key_id: Fact,
        key_version: Fact,
        model: Fact,
        model_version: Fact,
    ) -> None:
        self.require_party(owner)
        key = self.key(key_id, key_version)
        if (key.owner, key.model) != (owner, model):
            raise _Unfounded("its key is another owner's, or for another model")
        if (owner, model) not in self.grants:
            raise _Unfounded("its owner was never granted the model")
        if str(key.state) not in USABLE:
            raise _Unfounded(f"its key version was {key.state} then")
        if str(key.issued.get(model_version)) not in ANSWERS:
            raise _Unfounded("its model version was not issued under its key then")

    def _learn(self, entry: Entry) -> None:
        if entry.kind in _REPORTED:
            return
        group, _, _ = entry.kind.partition(".")
        if learn := _LEARNERS.get(entry.kind) or _LEARNERS.get(group):
            learn(self, entry.subject)

    def _check_actor(self, actor: Fact) -> None:
        """A log that has enrolled nobody yet may be anybody's."""
        if self.parties and actor:
            self.require_party(actor)

    def require_party(self, party: Fact | None) -> None:
        """Return if the party is enrolled and was not revoked."""
        if party not in self.parties:
            raise _Unfounded("it names a party that was not enrolled then")
        if not self.parties[party]:
            raise _Unfounded("it names a party that was revoked then")

    def require_release(self, model: Fact, version: Fact) -> None:
        """Return if that version of the model is registered."""
        if ModelName(model, version) not in self.releases:
            raise _Unfounded("it names a model version that was not registered then")

    def key(self, key_id: Fact, version: Fact) -> KeyStory:
        """Return what was said of a key version that was created."""
        key = self.keys.get(KeyName(key_id, version))
        if key is None:
            raise _Unfounded("it names a key version that was not created then")
        return key


class _Unfounded(Exception):
    """A record refers to what was not so when it was written."""


def _enrol(history: History, said: Mapping[str, Fact]) -> None:
    history.parties[said.get("party", "")] = True


def _revoke(history: History, said: Mapping[str, Fact]) -> None:
    history.require_party(said.get("party"))
    history.parties[said.get("party", "")] = False


def _register(history: History, said: Mapping[str, Fact]) -> None:
    history.require_party(said.get("party"))
    history.signing_keys[said.get("party", "")] = said.get("signing_key", "")


def _publish(history: History, said: Mapping[str, Fact]) -> None:
    name = ModelName(said.get("model", ""), said.get("model_version", 0))
    history.releases[name] = said.get("manifest_sha256", "")


def _grant(history: History, said: Mapping[str, Fact]) -> None:
    history.require_party(said.get("owner"))
    history.grants.add((said.get("owner", ""), said.get("model", "")))


def _create(history: History, said: Mapping[str, Fact]) -> None:
    name = KeyName(said.get("key_id", ""), said.get("key_version", 0))
    if "owner" not in said:
        return
    if name in history.keys:
        raise _Unfounded("its key version was there already")
    history.require_party(said["owner"])
    model = said.get("model", "")
    history.keys[name] = KeyStory(said["owner"], model, said.get("state"))


def _move(history: History, said: Mapping[str, Fact]) -> None:
    """Follow a record about a key version, or what is issued under it."""
    if "key_version" not in said or "key_id" not in said:
        return
    key = history.key(said["key_id"], said["key_version"])
    if not _agree(said, owner=key.owner, model=key.model):
        raise _Unfounded("its key is another owner's, or for another model")
    after = said.get("state", key.state)
    if after != key.state and (key.state, after) not in _STEPS:
        raise _Unfounded(f"its key version was {key.state}: it cannot be {after}")
    key.state = after
    if "model_version" in said:
        history.require_release(key.model, said["model_version"])
    if "issued_state" in said:
        key.issued[said.get("model_version", 0)] = said["issued_state"]


def _point(history: History, said: Mapping[str, Fact]) -> None:
    history.require_release(said.get("model", ""), said.get("model_version", 0))


def _ask(history: History, said: Mapping[str, Fact]) -> None:
    history.approvals.add(said.get("approval", 0))


def _answer(history: History, said: Mapping[str, Fact]) -> None:
    if said.get("approval", 0) not in history.approvals:
        raise _Unfounded("nobody had asked for the approval it names")


def _agree(said: Mapping[str, Fact], **expected: Fact) -> bool:
    return all(said.get(name, value) == value for name, value in expected.items())


# By kind, or by what it begins with.
_LEARNERS: Final[Mapping[str, Callable[[History, Mapping[str, Fact]], None]]] = (
    MappingProxyType(
        {
            "party.enrolled": _enrol,
            "party.revoked": _revoke,
            "party.keys_registered": _register,
            "model.registered": _publish,
            "model.granted": _grant,
            "alias.moved": _point,
            "key.created": _create,
            "key": _move,
            "issued": _move,
            "approval.requested": _ask,
            "approval": _answer,
        }
    )
)

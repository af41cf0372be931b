"""What the registry holds now, against the log and against those who signed it.

The registry is the sum of what the log tells: a state that no record explains was put
there by hand. Signatures are checked with the keys that the log says were registered.
"""

from hashlib import sha256
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import KeymixerError, SignatureError
from core.rpc.identity import KEY_HOLDER
from core.statements import ISSUE, MANIFEST, IssueStatement, verify
from orchestrator.audit.history import History, KeyName, ModelName
from orchestrator.errors import AuditBroken
from orchestrator.registry.models import (
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
    Party,
)

_BATCH: Final = 512


def check_registry(session: Session, history: History) -> None:
    """Return if the registry is what the log's whole `history` made it.

    Raises:
        AuditBroken: at the first row that differs: which, and how.
    """
    _check_releases(session, history)
    _check_keys(session, history)
    _check_issued(session, history)


def _check_releases(session: Session, history: History) -> None:
    query = (
        select(
            Model.name,
            ModelVersion.version,
            Party.spiffe_id,
            ModelVersion.manifest,
            ModelVersion.signature,
        )
        .join(ModelVersion.model)
        .join(Model.provider)
        .execution_options(yield_per=_BATCH)
    )
    with session.execute(query) as rows:
        for name, version, provider, manifest, signature in rows:
            what = f"version {version} of model {name}"
            if (
                history.releases.get(ModelName(name, version))
                != sha256(manifest).hexdigest()
            ):
                raise _broken(what, "its manifest is not the one that the log tells of")
            key = _signing_key(history, provider)
            try:
                verify(key, MANIFEST, manifest, signature)
            except SignatureError as error:
                raise _broken(what, str(error)) from error


def _check_keys(session: Session, history: History) -> None:
    query = (
        select(Key.key_id, KeyVersion.version, KeyVersion.state)
        .join(KeyVersion.key)
        .execution_options(yield_per=_BATCH)
    )
    with session.execute(query) as rows:
        for key_id, version, state in rows:
            story = history.keys.get(KeyName(key_id, version))
            told = "nothing of it" if story is None else story.state
            if told != state:
                what = f"version {version} of key {key_id}"
                raise _broken(what, f"it is {state}, the log says {told}")


def _check_issued(session: Session, history: History) -> None:
    query = (
        select(
            Key.key_id,
            KeyVersion.version,
            ModelVersion.version,
            IssuedModel.state,
            IssuedModel.digest,
            IssuedModel.statement,
            IssuedModel.signature,
        )
        .join(IssuedModel.key_version)
        .join(KeyVersion.key)
        .join(IssuedModel.model_version)
        .execution_options(yield_per=_BATCH)
    )
    holders = _key_holders(history)
    with session.execute(query) as rows:
        for row in rows:
            key_id, number, model_version, state, digest, statement, signature = row
            what = (
                f"model version {model_version} under version {number} of key {key_id}"
            )
            story = history.keys.get(KeyName(key_id, number))
            told = None if story is None else story.issued.get(model_version)
            if told != state:
                raise _broken(
                    what, f"it is {state}, the log says {told or 'nothing of it'}"
                )
            if not any(_signed_by(key, statement, signature) for key in holders):
                raise _broken(what, "no key holder signed its statement")
            said = _statement(what, statement)
            expected = (key_id, number, model_version, digest.hex())
            named = (said.key_id, said.key_version, said.model_version, said.digest)
            if named != expected:
                raise _broken(what, "its signed statement is about another")


def _key_holders(history: History) -> list[bytes]:
    """The keys of the parties that may sign what is issued."""
    named = (str(party) for party in history.signing_keys)
    holders = (party for party in named if party.endswith(f"/{KEY_HOLDER}"))
    return [_signing_key(history, party) for party in holders]


def _statement(what: str, statement: bytes) -> IssueStatement:
    try:
        return IssueStatement.from_bytes(statement)
    except KeymixerError as error:
        raise _broken(what, str(error)) from error


def _signed_by(key: bytes, statement: bytes, signature: bytes) -> bool:
    try:
        verify(key, ISSUE, statement, signature)
    except SignatureError:
        return False
    return True


def _signing_key(history: History, party: str) -> bytes:
    """The key that the log says it registered; none verifies nothing."""
    try:
        return bytes.fromhex(str(history.signing_keys.get(party, "")))
    except ValueError:
        return b""


def _broken(what: str, difference: str) -> AuditBroken:
    return AuditBroken("registry", None, f"{what}: {difference}")

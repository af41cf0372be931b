"""Records of the audit log as sentences for a person."""

from collections.abc import Mapping
from typing import Any, Final

_KEPT_APART: Final = "(kept beside the log)"
# Of `federation/organisation/role`; a party may report a fact that only begins alike.
_SLASHES: Final = 2

# Kind -> sentence, filled with facts; a kind without one is told as it is.
SENTENCES = {
    "party.enrolled": "enrols {party}",
    "party.keys_registered": "registers its public keys",
    "party.revoked": "revokes {party}",
    "key_holder.started": "has started",
    "server.started": "has started",
    "policy.in_force": "works by the policies {sha256}; two operators for: "
    "{dual_control}",
    "model.registered": "registers {model} version {model_version}, signed",
    "model.granted": "lets {owner} use {model}",
    "budget.set": "allows {owner} {max_images} images of {model} ({period}); "
    "{images_used} are used",
    "budget.lifted": "sets {owner} no limit of images of {model} any longer",
    "embedding.stored": "takes the plain embedding of {model} version {model_version}",
    "backbone.stored": "takes the backbone of {model} version {model_version}",
    "alias.moved": "makes version {model_version} of {model} the {alias}",
    "key.created": "asks for {key_id} version {key_version}",
    "key.drawn": "has {key_id} version {key_version} drawn",
    "key.fetched": "hands {key_id} version {key_version}, sealed, to its owner",
    "key.confirmed": "has seen {owner} prove that it holds {key_id} version "
    "{key_version}",
    "key.activated": "makes {key_id} version {key_version} active",
    "key.retiring": "retires {key_id} version {key_version}; it is still served",
    "key.expired": "refuses {key_id} version {key_version} from now on",
    "key.suspended": "suspends {key_id} version {key_version}: {reason}",
    "key.held": "holds {key_id}, with all versions to come: {reason}",
    "key.no_longer_held": "no longer holds {key_id}",
    "key.resumed": "serves {key_id} version {key_version} again",
    "key.compromised": "calls {key_id} version {key_version} compromised: {reason}",
    "key.restored": "takes back that {key_id} version {key_version} is destroyed",
    "key.window_ended": "has {key_id} version {key_version} destroyed without waiting",
    "key.sealed_for_recovery": "seals {key_id} version {key_version} for recovery",
    "key.exported": "is given {key_id} version {key_version}, sealed for recovery",
    "key.revoked": "revokes {key_id} version {key_version}: {reason}",
    "key.destroyed": "has the seed of {key_id} version {key_version} destroyed",
    "keys.rewrapped": "wraps {key_versions} key versions under {kek}",
    "issued.prepared": "has {model} prepared for {key_id} version {key_version}",
    "issued.warned": "has {model} issued for {key_id} version {key_version} although "
    "{because}",
    "issued.stored": "holds {model} issued for {key_id} version {key_version}",
    "issued.pending": "will have {model} issued again for {key_id} version "
    "{key_version}",
    "issued.live": "lets {model} answer {key_id} version {key_version}",
    "issued.retiring": "will delete {model} for {key_id} version {key_version}",
    "issued.deleted": "deletes {model} issued for {key_id} version {key_version}",
    "issued.gone": "has seen {model} for {key_id} version {key_version} deleted",
    "model.exposed": "presumes the embedding of {model} version {model_version} known",
    "model.public": "calls the embedding of {model} version {model_version} public",
    "model.not_issued": "does not issue {model} version {model_version}: its embedding "
    "is public",
    "model.held_back": "does not issue {model} version {model_version}: {because}",
    "model.recovery_started": "starts the recovery of {model}",
    "job.needs_operator": "leaves job {job} to an operator, at {step}: {error}",
    "job.retried": "tries job {job} again, at {step}",
    "job.aborted": "gives job {job} up: {reason}",
    "approval.requested": "asks for {action}; approval {approval} waits for another "
    "operator",
    "approval.approved": "approves {action}, approval {approval}",
    "approval.executed": "has {action} done, approval {approval}",
    "approval.rejected": "rejects {action}, approval {approval}: {reason}",
    "approval.expired": "lets approval {approval}, {action}, expire",
    "note.erased": "erases what was typed with record {record}: {reason}",
    "refused": "refuses {caller}: {kind}",
    "failed": "cannot answer {caller}: {kind}",
    "inference.refused": "refuses to release an answer to {owner}: {refusal}",
}


def sentence(kind: str, subject: Mapping[str, Any]) -> str:
    """What a record says, in words.

    Args:
        kind: such as `key.drawn`.
        subject: the record's facts.
    """
    # Where no note was looked up, as of a receipt, its place is still named.
    noted = {"reason": _KEPT_APART} if "reason_hmac" in subject else {}
    facts = {name: short(value) for name, value in {**noted, **subject}.items()}
    try:
        return SENTENCES[kind].format_map(facts)
    except KeyError:
        told = ", ".join(f"{name} {value}" for name, value in facts.items())
        return f"{kind.replace('.', ' ')}: {told}"


def short(value: object) -> str:
    """A party by its organisation; anything else as it is."""
    text = str(value)
    scheme, _, path = text.partition("://")
    if scheme == "spiffe" and path.count("/") == _SLASHES:
        _, organisation, role = path.split("/")
        return organisation if role == "data-owner" else f"{organisation} ({role})"
    return text

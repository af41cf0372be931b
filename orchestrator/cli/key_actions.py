"""`keymixer keys revoke | suspend | ... | export`: what may be done to a key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from core.console import EXIT_CODES
from orchestrator.cli.options import (
    LATEST,
    As,
    AsJson,
    Model,
    Owner,
    Reason,
    Run,
    Version,
)
from orchestrator.cli.session import KeyName, connected, tell, tell_outcome

if TYPE_CHECKING:
    from protos.workflows_pb2 import ReportCompromiseResponse

app = typer.Typer()

_WHY_IT_MATTERS: Final = (
    "Why it matters: whoever has this key and what the inference server holds can "
    "compute the model's plain embedding, and from it the key of every other owner of "
    "{model}. New keys for the same embedding would not help. See "
    "docs/threat-model.md."
)


@app.command(epilog=EXIT_CODES)
def revoke(
    owner: Owner,
    reason: Reason,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """End an owner's key at once: its next request is refused.

    It is destroyed after the destroy window; until then `keymixer keys restore` takes
    it back. Pictures that were sent already are not protected by this.

    Example: keymixer keys revoke st-anna --reason "contract ended"
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.revoke_key(key.owner, key.model, reason)
        versions = list(done.versions)
        content = {
            "key_id": key.key_id,
            "versions": versions,
            "approval_id": done.approval_id,
        }
        told = _ended("revoked", key, versions)
        tell_outcome(session, content, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def suspend(
    owner: Owner,
    reason: Reason,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Have an owner's key refused until it is resumed; nothing is lost.

    Example: keymixer keys suspend st-anna --reason "laptop is missing"
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.suspend_key(key.owner, key.model, reason)
    versions = list(done.versions)
    told = _ended("suspended", key, versions)
    tell({"key_id": key.key_id, "versions": versions}, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def resume(
    owner: Owner,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Serve an owner's suspended key again.

    Example: keymixer keys resume st-anna
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.resume_key(key.owner, key.model)
    versions = list(done.versions)
    told = f"{key.key_id}: {_listed(versions)} served again"
    tell({"key_id": key.key_id, "versions": versions}, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def compromised(
    owner: Owner,
    reason: Reason,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Say that an owner's key is known to somebody else, and start the recovery.

    The key is refused at once; policy says whether the other owners' keys for the same
    model are suspended too. What a clean recovery needs is listed. Where revoking needs
    two operators, one suspends the key, and the rest waits for the other.

    Example: keymixer keys compromised st-anna --reason "seed in a backup that leaked"
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.report_compromise(key.owner, key.model, reason)
        content = {
            "key_id": key.key_id,
            "versions": list(done.versions),
            "suspended": list(done.suspended),
            "recovery_job_id": done.recovery_job_id,
            "needed": list(done.needed),
            "approval_id": done.approval_id,
        }
        told = _compromise_in_words(key, done)
        held = f"{key.key_id} is suspended, and nothing else was done yet"
        tell_outcome(session, content, told, as_json=json_, meanwhile=held)


@app.command(epilog=EXIT_CODES)
def restore(
    owner: Owner,
    version: Version,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Take back the destruction of a key version while its window is open.

    Afterwards too, as long as it waits for operators. It is suspended then: `keymixer
    keys resume` has it served again.

    Example: keymixer keys restore st-anna --version 2
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.restore_key(key.key_id, version)
        content = {
            "key_id": key.key_id,
            "version": version,
            "state": done.state,
            "approval_id": done.approval_id,
        }
        told = (
            f"{key.key_id} version {version} is {done.state}: "
            f"`keymixer keys resume {key.organisation}` has it served again"
        )
        tell_outcome(session, content, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def destroy(
    owner: Owner,
    version: Version,
    run: Run = LATEST,
    *,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Destroy a key version that waits in its window, for good and without waiting.

    Example: keymixer keys destroy st-anna --version 2
    """
    with connected(run, as_) as session:
        key = session.key(owner, model)
        done = session.operator.destroy_key(key.key_id, version)
        content = {
            "key_id": key.key_id,
            "version": version,
            "job_id": done.job_id,
            "approval_id": done.approval_id,
        }
        told = f"{key.key_id} version {version} is destroyed now, by job {done.job_id}"
        tell_outcome(session, content, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def export(
    owner: Owner,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    run: Run = LATEST,
    *,
    version: Annotated[
        int, typer.Option("--version", help="Default: the primary version.", min=0)
    ] = 0,
    model: Model = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Write a key version to a file that only the federation's recovery key opens.

    The key holder must have pinned a recovery key; see docs/keys.md, "Export".

    Example: keymixer keys export st-anna --out st-anna.sealed.json
    """
    from orchestrator.cli.exporting import chosen_version, require_new, write_export

    require_new(out)

    with connected(run, as_) as session:
        key = session.key(owner, model)
        chosen = chosen_version(session.operator.key_versions(), key, version)
        done = session.operator.export_key(key.key_id, chosen.version)
        if not done.approval_id:
            write_export(out, session.workspace.federation, chosen, done)
        content = {
            "key_id": key.key_id,
            "version": chosen.version,
            "file": "" if done.approval_id else str(out),
            "approval_id": done.approval_id,
        }
        told = f"{key.key_id} version {chosen.version}, sealed, is in {out}"
        tell_outcome(session, content, told, as_json=json_)


def _ended(what: str, key: KeyName, versions: list[int]) -> str:
    if not versions:
        return f"{key.key_id}: nothing was in use"
    return f"{key.key_id}: {_listed(versions)} {what}; the next request is refused"


def _listed(versions: list[int]) -> str:
    return ", ".join(f"version {each}" for each in versions) or "nothing is"


def _compromise_in_words(key: KeyName, done: "ReportCompromiseResponse") -> str:
    steps = (f"  {number}. {each}" for number, each in enumerate(done.needed, 1))
    ended = _ended("compromised", key, list(done.versions))
    if not done.recovery_job_id:
        return "\n".join((ended, "What is needed:", *steps))
    lines = (
        ended,
        _WHY_IT_MATTERS.format(model=key.model),
        f"Suspended by policy: {', '.join(done.suspended) or 'no other key'}",
        "A clean recovery needs:",
        *steps,
    )
    return "\n".join(lines)

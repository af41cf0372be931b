"""A new model version reaches every key in use: steps of `release` jobs.

* issue_all: for each key version in use that the new version fits and that lacks it, an
  `issue` job is opened, some hundred at a time. One that the policies let nobody be
  issued is left to an operator.
* children: waits until those have ended. One owner's or key's trouble holds up nobody
  else's.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import USABLE, IssuedState
from orchestrator.registry.models import (
    IssuedModel,
    Job,
    Key,
    KeyVersion,
    Model,
    ModelAlias,
    ModelVersion,
)
from orchestrator.registry.store import Change
from orchestrator.workflows import exposure, gate, issuing, jobs, public
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.work import Work

# So that no transaction holds up others for long.
AT_ONCE: Final = 200
AWAITS_CHILDREN: Final = "the jobs that it has started are not all done"

_MAY_GO_ON: Final = (Kind.CREATE, Kind.ROTATE, Kind.RECOVER)
_HAS_IT: Final = (IssuedState.PENDING, IssuedState.LIVE, IssuedState.RETIRING)


def registered(change: Change, version: ModelVersion) -> None:
    """A release was registered: without a champion, it is what keys are issued.

    Not if its embedding is no secret.
    """
    change.session.flush()  # a new version does not know its model's id before
    public.inherit(change, version)
    exposure.inherit(change, version)
    if version.exposed_at_ms is not None:
        return
    alias = change.session.get(ModelAlias, (version.model_id, store.CHAMPION))
    known = exists().where(Job.subject == _subject(version))
    if alias is None and not change.session.scalar(select(known)):
        begin(change, version)


def point(
    change: Change, policies: Policies, name: str, alias: str, version: int
) -> None:
    """Move an alias; champion and candidate are what keys are issued from now on.

    Raises:
        NotIssuable: what the policies let nobody be issued becomes neither of them.
        NotAllowedError, NotFound, Conflict: as `store.set_alias` does.
    """
    if store.set_alias(change, name, alias, version) and alias in store.ISSUED:
        gate.require_issuable(change.session, policies, name, version)
        begin(change, store.model_version(change.session, name, version))


def begin(change: Change, version: ModelVersion) -> None:
    """Bring a model version to every key in use, unless that is under way.

    Jobs that waited for a version like this one look again.
    """
    change.session.flush()
    _give_up_exposed(change, version.model)
    for job in _waiting_for(change.session, version.model):
        jobs.wake(change, job)
    if jobs.open_on(change.session, _subject(version)) is None:
        named = {"model": version.model.name, "model_version": version.version}
        subject = _subject(version)
        jobs.new(change, Kind.RELEASE, subject, Step.ISSUE_ALL, arguments=named)


def issue_all(work: Work) -> None:
    """Open an `issue` job for each key version that should have the model version."""
    with work.commit() as (change, job):
        said = jobs.arguments(job)
        version = store.model_version(
            change.session, said["model"], said["model_version"]
        )
        lacking = _lacking(change.session, version, said.get("after", 0))
        refused = gate.refusal(change.session, work.policies, version)
        if lacking and refused:
            gate.hold(change, job, version, refused)
            return
        for each in _unhindered(change, work.policies, version, lacking[:AT_ONCE]):
            issuing.open_issue(change, each, version, parent_id=job.id)
        if len(lacking) > AT_ONCE:
            jobs.note(job, after=lacking[AT_ONCE - 1].id)
            jobs.advance(change, job, Step.ISSUE_ALL)
        else:
            await_children(change, job)


def children(work: Work) -> None:
    """Wait until what the job has started has ended."""
    with work.commit() as (change, job):
        await_children(change, job)


def await_children(change: Change, job: Job) -> None:
    """Be done, or wait until the last child's end wakes the job."""
    change.session.flush()
    if jobs.has_open_child(change.session, job.id):
        jobs.wait(change, job, AWAITS_CHILDREN, step=Step.CHILDREN)
    else:
        jobs.finish(change, job)


def _unhindered(
    change: Change,
    policies: Policies,
    version: ModelVersion,
    lacking: Sequence[KeyVersion],
) -> list[KeyVersion]:
    """Those that what was sent under them does not bar; the log names the others.

    Under such a key version the server would see it all in the new embedding's basis.
    """
    free = []
    for each in lacking:
        refused = gate.refusal(change.session, policies, version, each)
        if refused is None:
            free.append(each)
        else:
            key_id, number = each.key.key_id, each.version
            gate.record(change, version, refused, key_id=key_id, key_version=number)
    return free


def _subject(version: ModelVersion) -> str:
    return f"release:{version.model.name}/{version.version}"


def _lacking(session: Session, version: ModelVersion, after: int) -> list[KeyVersion]:
    """Key versions in use that the model version fits, without it and without a job.

    Those from the row `after` on: what comes before was looked at.

    One that had an exposed model version would expose this one too.
    """
    has_it = exists().where(
        IssuedModel.key_version_id == KeyVersion.id,
        IssuedModel.model_version_id == version.id,
        IssuedModel.state.in_(_HAS_IT),
    )
    gets_it = exists().where(
        Job.key_version_id == KeyVersion.id,
        Job.state.in_(jobs.OPEN),
        issuing.brings(version),
    )
    shape = issuing.blocks(version.manifest) or (0, 0)
    query = (
        store.select_key_versions()
        .where(Key.model_id == version.model_id, KeyVersion.state.in_(USABLE))
        .where(Key.patch_size == shape[0], Key.channels == shape[1])
        .where(~has_it, ~gets_it, ~exposure.was_burnt(), KeyVersion.id > after)
        .order_by(KeyVersion.id)
        .limit(AT_ONCE + 1)
    )
    return list(session.scalars(query))


def _waiting_for(session: Session, model: Model) -> list[Job]:
    """Jobs of a model that may go on once it has another champion."""
    of_key = (
        select(Job)
        .join(Job.key_version)
        .join(KeyVersion.key)
        .where(Key.model_id == model.id, Job.kind.in_(_MAY_GO_ON))
        .where(Job.step.in_((Step.PREPARE, Step.SEND)))
        .where(Job.state.in_(jobs.OPEN))
    )
    recovery = jobs.open_on(session, f"recover:{model.name}")
    return [*session.scalars(of_key), *([recovery] if recovery else [])]


def _give_up_exposed(change: Change, model: Model) -> None:
    """What brings an exposed version to keys would wait forever: it is given up."""
    for version in exposure.exposed_versions(change.session, model):
        of_key = (
            select(Job)
            .join(Job.key_version)
            .join(KeyVersion.key)
            .where(issuing.brings(version), Job.state.in_(jobs.OPEN))
            .order_by(Job.id)
        )
        release = jobs.open_on(change.session, _subject(version))
        for job in [*change.session.scalars(of_key), *([release] if release else [])]:
            jobs.abort(change, job, "the embedding of this version is exposed")

"""What operators, a provider and owners set in motion, and see to its end."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from core.manifest import Manifest
from parties.model_provider.release import Release
from tests.killed.town import Jobs, Town
from tests.unit.parties.stage import Release as Made

ALDER: Final = "alder"
BIRCH: Final = "birch"
CEDAR: Final = "cedar"
A_DAY_S: Final = 24 * 3600.0


def prepare(town: Town) -> None:
    """What every run begins with: one release, and two owners with active keys."""
    for owner in town.owners.values():
        owner.register()
    town.release(a_release(town, 1))
    for name in (ALDER, BIRCH, CEDAR):
        town.operator.grant(town.owner(name), town.model)
    for name in (ALDER, BIRCH):
        town.operator.create_key(town.owner(name), town.model)
    town.settle()


def release(town: Town) -> None:
    """A new version becomes the champion, and is issued under every key in use."""
    town.arm()
    town.release(a_release(town, 2))
    town.settle()


def create(town: Town) -> None:
    """An owner gets a first key."""
    town.arm()
    town.insist(
        lambda: town.operator.create_key(town.owner(CEDAR), town.model),
        lambda: has_job(town, "create", CEDAR),
    )
    town.settle()


def rotate(town: Town) -> None:
    """A key gets a new version; the old one ends its overlap, and is destroyed."""
    town.arm()
    order_rotation(town)
    town.settle()


def destroy(town: Town) -> None:
    """A version waits to be destroyed, and an operator does not wait so long."""
    order_rotation(town)
    town.settle(lambda jobs: at_step(jobs, "window") and waits(jobs))
    town.arm()
    key_id = f"{ALDER}.{town.model}"
    town.insist(
        lambda: town.operator.destroy_key(key_id, 1),
        lambda: has_record(town, "key.window_ended"),
    )
    town.settle()


def revoke(town: Town) -> None:
    """A key is refused at once, and destroyed after its window."""
    town.arm()
    town.insist(
        lambda: town.operator.revoke_key(town.owner(ALDER), town.model, "lost"),
        lambda: has_job(town, "revoke", ALDER),
    )
    town.settle()


def suspend(town: Town) -> None:
    """A key is refused for a while, and is then what it was."""
    town.arm()
    town.insist(
        lambda: town.operator.suspend_key(town.owner(ALDER), town.model, "a doubt"),
        lambda: state_of(town, ALDER) == "suspended",
    )
    town.insist(
        lambda: town.operator.resume_key(town.owner(ALDER), town.model),
        lambda: state_of(town, ALDER) == "active",
    )
    town.settle()


def recover(town: Town) -> None:
    """A key leaks: a new release, then new keys for every owner of the model."""
    town.arm()
    town.insist(
        lambda: town.operator.report_compromise(
            town.owner(ALDER), town.model, "found on a forum"
        ),
        lambda: has_kind(town, "recover"),
    )
    town.settle(lambda jobs: at_step(jobs, "await_release") and waits(jobs))
    town.release(a_release(town, 2))
    town.settle()


WORKFLOWS: Final[Mapping[str, Callable[[Town], None]]] = MappingProxyType(
    {
        each.__name__: each
        for each in (release, create, rotate, destroy, revoke, suspend, recover)
    }
)


def a_release(town: Town, number: int) -> Release:
    """A model nobody trained; each number has weights of its own."""
    made = Made(seed=number)
    manifest: Manifest = made.manifest
    return Release(manifest, made.embedding, made.backbone)


def order_rotation(town: Town) -> None:
    town.insist(
        lambda: town.operator.rotate_keys(town.model, A_DAY_S, owner=town.owner(ALDER)),
        lambda: has_job(town, "rotate", ALDER),
    )


def has_job(town: Town, kind: str, owner: str) -> bool:
    """Was such a job ever opened?"""
    query = "SELECT 1 FROM jobs WHERE kind = :kind AND subject LIKE :subject"
    return bool(town.ask(query, kind=kind, subject=f"key:{owner}.%"))


def has_kind(town: Town, kind: str) -> bool:
    return bool(town.ask("SELECT 1 FROM jobs WHERE kind = :kind", kind=kind))


def has_record(town: Town, kind: str) -> bool:
    query = "SELECT 1 FROM audit_leaves WHERE kind = :kind"
    return bool(town.ask(query, kind=kind))


def at_step(jobs: Jobs, step: str) -> bool:
    return any(job["step"] == step for job in jobs)


def waits(jobs: Jobs) -> bool:
    """Is nothing to be done, nor to be tried again, before some time or event?"""
    return all(job["state"] == "waiting" and not job["attempts"] for job in jobs)


def state_of(town: Town, owner: str) -> str:
    ((state,),) = town.ask(
        "SELECT key_versions.state FROM key_versions JOIN keys ON keys.id = key_pk "
        "WHERE key_id = :key_id",
        key_id=f"{owner}.{town.model}",
    )
    return str(state)

"""Workflows are the same on every database: jobs, leases, and what comes of them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.errors import ConstraintConflict
from orchestrator.federation import RotationPolicy
from orchestrator.workflows import jobs, leases, rotation
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.leases import LeaseLost
from orchestrator.workflows.rotation import Wish
from orchestrator.workflows.workers import running
from tests.unit.orchestrator.crashing import outcome
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    Office,
    furnish,
    open_office,
)
from tests.unit.orchestrator.test_job_crashes import STAGES, play


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    with furnished(tmp_path, url) as office:
        yield office


@contextmanager
def furnished(folder: Path, url: str = "") -> Iterator[Office]:
    with open_office(folder, url) as office:
        furnish(office)
        yield office


def test_every_workflow_ends_as_it_does_on_sqlite(
    office: Office, tmp_path: Path
) -> None:
    """Rows, records and effects, through all that the crash tests do."""
    (tmp_path / "other").mkdir()
    play(office, list(STAGES))
    with furnished(tmp_path / "other") as other:
        play(other, list(STAGES))

        assert outcome(office) == outcome(other)


def test_two_processes_lease_no_job_twice(office: Office, url: str) -> None:
    """Each has its own connection; they lease at the same time."""
    office.settle()
    with office.registry.own_change() as change:
        for number in range(40):
            jobs.new(change, Kind.RELEASE, f"release:x/{number}", Step.CHILDREN)
    leased: list[int] = []
    with open_office(office.folder, url) as other:
        other.clock.now_ms = office.clock.now_ms
        together = threading.Barrier(2)

        def lease(whose: Office) -> None:
            together.wait(30)
            engine = whose.engine()
            while leases := engine.claim(3):
                leased.extend(lease.job_id for lease in leases)

        threads = [threading.Thread(target=lease, args=(o,)) for o in (office, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert len(leased) == 40
    assert set(Counter(leased).values()) == {1}


def test_whoever_lost_a_lease_to_another_process_writes_nothing(
    office: Office, url: str
) -> None:
    office.settle()
    office.grant()
    office.create()
    (lost,) = office.engine().claim(1)
    with open_office(office.folder, url) as other:
        other.key_holder = office.key_holder
        other.clock.now_ms = office.clock.now_ms + 15_000
        other.settle()

    with pytest.raises(LeaseLost), office.registry.own_change() as change:
        leases.held(change.session, lost)
    assert office.kinds().count("key.drawn") == 1


def test_two_processes_do_the_work_of_one(office: Office, url: str) -> None:
    for owner in (ALDER_ID, BIRCH_ID):
        office.grant(owner)
        office.create(owner)
    with open_office(office.folder, url) as other:
        other.clock.now_ms = office.clock.now_ms
        other.key_holder, other.server = office.key_holder, office.server
        with running(office.engine()), running(other.engine()):
            wait_for(office, "key.drawn", 2)
            office.confirm("alder.cells", 1)
            office.confirm("birch.cells", 1)
            wait_for(office, "key.activated", 2)

    assert set(office.states().values()) == {"active"}
    assert office.kinds().count("issued.live") == 2


def test_the_database_allows_one_open_job_a_subject(office: Office) -> None:
    office.settle()
    for _ in range(2):
        with office.registry.own_change() as change:
            job = jobs.new(change, Kind.RELEASE, "release:x/1", Step.CHILDREN)
            change.session.flush()
            jobs.finish(change, job)
    with office.registry.own_change() as change:
        jobs.new(change, Kind.RELEASE, "release:x/1", Step.CHILDREN)

    with pytest.raises(ConstraintConflict), office.registry.own_change() as change:
        jobs.new(change, Kind.RELEASE, "release:x/1", Step.CHILDREN)


def test_the_policy_finds_the_keys_that_are_due(office: Office) -> None:
    rules = {"max_age": "30d", "max_images": 100, "daily_at": "02:00"}
    policy = RotationPolicy.model_validate(rules)
    office.policies = office.policies.model_copy(update={"rotation": policy})
    office.active_key(ALDER_ID)
    office.clock.pass_seconds(24 * 3600)
    office.active_key(BIRCH_ID)
    office.settle()

    because = [entry.subject.get("because") for entry in office.entries("key.created")]
    assert because.count("daily at 02:00 UTC") >= 1


def test_jobs_are_listed_and_keys_are_found(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    with office.change() as change:
        wish = Wish(MODEL, 1.0)
        (first, second) = rotation.rotate(change, office.policies, wish, dry_run=True)
    with office.database.reading() as session:
        page = jobs.listed(session, open_only=False, ids=(), before=0, limit=2)

    assert (first.to_version, second.to_version) == (2, 2)
    assert [job.kind for job in page] == ["create", "create"]


def wait_for(office: Office, kind: str, count: int) -> None:
    pause = threading.Event()
    for _ in range(1500):
        if office.kinds().count(kind) == count:
            return
        pause.wait(0.02)
    raise AssertionError(f"{kind} did not happen")

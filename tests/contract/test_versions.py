"""Versions of a model that many register at once: the next integer each, once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.statements import MANIFEST, sign
from orchestrator.registry import store
from tests.unit.orchestrator.office import (
    MODEL,
    PROVIDER_ID,
    PROVIDER_KEY,
    Office,
    manifest_bytes,
    open_office,
    register_keys,
    register_model,
)

THREADS = 32


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    """A registry that knows a provider, and no model yet."""
    with open_office(tmp_path, url) as office:
        with office.registry.own_change() as change:
            store.enrol(change, PROVIDER_ID)
        register_keys(office, PROVIDER_ID, PROVIDER_KEY)
        yield office


def at_once(office: Office, seeds: range) -> list[int]:
    """Every thread registers the release of its seed; the versions they are given."""
    begin = threading.Barrier(len(seeds))

    def register(seed: int) -> int:
        manifest = manifest_bytes(seed=seed)
        signature = sign(PROVIDER_KEY, MANIFEST, manifest)
        begin.wait(60)
        with office.change(PROVIDER_ID) as change:
            return store.register_model_version(change, manifest, signature).version

    with ThreadPoolExecutor(len(seeds)) as pool:
        return list(pool.map(register, seeds))


def registered(office: Office) -> list[int]:
    with office.database.reading() as session:
        return [each.version for each in store.model_versions(session, MODEL)]


def test_each_release_registered_twice_from_32_threads_is_one_of_32_versions(
    office: Office,
) -> None:
    """Numbered without a gap; whoever registers it again is told its number."""
    seeds = range(THREADS)
    given = at_once(office, seeds)

    assert [*range(1, THREADS + 1)] == sorted(given) == registered(office)
    assert given == at_once(office, seeds)
    assert [*range(1, THREADS + 1)] == registered(office)
    assert THREADS == len(office.entries("model.registered"))


def test_one_release_registered_by_32_threads_at_once_is_one_version(
    office: Office,
) -> None:
    """All are told the same number, and the log tells of it once."""
    register_model(office)
    manifest = manifest_bytes(seed=7)
    signature = sign(PROVIDER_KEY, MANIFEST, manifest)
    begin = threading.Barrier(THREADS)

    def register(_: int) -> int:
        begin.wait(60)
        with office.change(PROVIDER_ID) as change:
            return store.register_model_version(change, manifest, signature).version

    with ThreadPoolExecutor(THREADS) as pool:
        given = list(pool.map(register, range(THREADS)))

    assert {2} == {*given}
    assert [1, 2] == registered(office)
    assert 2 == len(office.entries("model.registered"))

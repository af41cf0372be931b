"""What `keymixer bench` measures with: the log's times, and what a machine tells."""

import json
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from core.errors import ConfigurationError
from core.manifest import Manifest
from core.wire import file_digest, load_tensors
from orchestrator.bench import growth, machine
from orchestrator.bench.appends import Plan, measure_appends
from orchestrator.bench.federation import MODEL, federation_of, write_federation
from orchestrator.bench.growth_figure import write_figure
from orchestrator.bench.milestones import CREATION, ROTATION, Journal, Milestone
from orchestrator.bench.questions import answer_plainly
from orchestrator.bench.release import architecture_of, write_untrained
from orchestrator.bench.usage import Usage
from orchestrator.cli.bench import app
from orchestrator.federation import read_federation
from orchestrator.simulation.narrator import Narrator

DRAWN = Milestone("drawn", "key.drawn", 2)
CONFIRMED = Milestone("delivered", "key.confirmed", 2)
ACTIVATED = Milestone("activated", "key.activated", 2)


@dataclass(frozen=True)
class Entry:
    index: int
    body: bytes


def entry(
    index: int, kind: str, time_ms: int, key: str = "alder.m", version: int | str = 2
) -> Entry:
    subject = {"key_id": key, "key_version": version}
    body = {"kind": kind, "time_ms": time_ms, "subject": subject}
    return Entry(index, json.dumps(body).encode())


def journal(*entries: tuple[str, int, str]) -> Journal:
    """`entries`: kind, milliseconds after a moment, key."""
    found = Journal()
    found.read(
        entry(number, kind, 1_000_000 + ms, key)
        for number, (kind, ms, key) in enumerate(entries)
    )
    return found


def test_each_milestone_has_its_first_and_its_last_key() -> None:
    passages = journal(
        ("key.drawn", 0, "alder.m"),
        ("key.confirmed", 300, "alder.m"),
        ("key.drawn", 500, "birch.m"),
        ("key.confirmed", 2500, "birch.m"),
    ).passages([DRAWN, CONFIRMED])

    assert [
        ("drawn", 0.0, 0.5, 0.5),
        ("delivered", 0.3, 2.5, 2.0),
    ] == [(p.word, p.first_s, p.last_s, p.seconds) for p in passages]


def test_what_the_milestones_add_is_the_whole_whatever_the_order() -> None:
    """Two keys overtake each other, and a milestone has one key only."""
    passages = journal(
        ("key.drawn", 0, "alder.m"),
        ("key.drawn", 4000, "birch.m"),
        ("key.confirmed", 1000, "alder.m"),
        ("key.activated", 7000, "birch.m"),
        ("key.activated", 1500, "alder.m"),
    ).passages([DRAWN, CONFIRMED, ACTIVATED])

    assert [4.0, 0.0, 3.0] == [passage.seconds for passage in passages]
    assert 7.0 == passages[-1].last_s


def test_a_milestone_that_nobody_has_passed_is_left_out() -> None:
    seen = journal(("key.drawn", 0, "alder.m"))

    assert ["drawn"] == [p.word for p in seen.passages([DRAWN, ACTIVATED])]
    assert [] == Journal().passages([DRAWN, ACTIVATED])


def test_keys_are_counted_once_and_by_version() -> None:
    """A party writes versions as text: its reports are no milestones."""
    seen = Journal()
    seen.read(
        [
            entry(0, "key.drawn", 5),
            entry(1, "key.drawn", 6),
            entry(2, "key.drawn", 7, "birch.m"),
            entry(3, "key.drawn", 8, "cedar.m", version=1),
            entry(4, "key.drawn", 9, "dogwood.m", version="2"),
        ]
    )

    assert 2 == seen.count(DRAWN)
    assert 0 == seen.count(CONFIRMED)
    assert 5 == seen.records


def test_a_job_that_needs_an_operator_is_named() -> None:
    seen = Journal()
    body = {"kind": "job.needs_operator", "time_ms": 1, "subject": {"job": 17}}
    seen.read([Entry(0, json.dumps(body).encode())])

    assert '{"job": 17}' == seen.stuck


def test_milestones_stand_in_the_order_in_which_a_key_passes_them() -> None:
    assert ["created", "drawn", "delivered", "prepared", "activated"] == [
        m.word for m in CREATION
    ]
    assert [2, 2, 2, 2, 2, 1, 1, 1] == [m.version for m in ROTATION]


def test_the_federation_reads_back_with_every_owner_granted(tmp_path: Path) -> None:
    made = federation_of(owners=30, hidden=64, patch=8)
    write_federation(made, tmp_path / "federation.yaml")
    read = read_federation(tmp_path / "federation.yaml")

    owners = read.organisations_with("data-owner")
    assert made == read
    assert 30 == len(set(owners))
    assert sorted(owners) == owners
    assert set(owners) == {grant.owner for grant in read.policies.grants}
    assert (0, 0) == (read.policies.rotation_overlap_s, read.policies.destroy_window_s)


def test_an_untrained_release_can_tell_pictures_apart(tmp_path: Path) -> None:
    model = federation_of(owners=1, hidden=16, patch=4).models[0]
    pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    write_untrained(tmp_path / "release", model, pixels)

    # Else a server that takes every key for the right one would be measured as right.
    assert len(set(answer_plainly(tmp_path / "release", pixels).classes)) > 5


def test_an_untrained_release_is_a_release(tmp_path: Path) -> None:
    model = federation_of(owners=1, hidden=16, patch=4).models[0]
    write_untrained(tmp_path / "release", model)

    files = {path.name: path.read_bytes() for path in (tmp_path / "release").iterdir()}
    manifest = Manifest.from_bytes(files["manifest.json"])
    weight = load_tensors(files["embedding.safetensors"])["weight"]
    assert (16, 3, 4, 4) == weight.shape
    assert MODEL == manifest.name
    assert file_digest(files["embedding.safetensors"]) == manifest.embedding_digest
    assert file_digest(files["backbone.safetensors"]) == manifest.backbone_digest


def test_patches_that_do_not_fit_the_images_are_refused() -> None:
    model = federation_of(owners=1, hidden=16, patch=5).models[0]

    with pytest.raises(ConfigurationError, match="do not split into 5x5 patches"):
        architecture_of(model)


def test_commits_of_an_open_database_are_counted(tmp_path: Path) -> None:
    """SQLite's own counter, against transactions that we make ourselves."""
    path = tmp_path / "counted.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (n)")
    before = machine.commits(path)
    for number in range(7):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        connection.execute("INSERT INTO t VALUES (?)", (-number,))
        connection.execute("COMMIT")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    after = machine.commits(path)
    connection.close()

    assert before is not None
    assert before + 7 == after
    assert machine.commits(path) is None


def test_processor_seconds_grow_with_work() -> None:
    before = machine.cpu_seconds(os.getpid())
    while before is not None and time.process_time() < before + 0.1:
        sum(range(1000))
    after = machine.cpu_seconds(os.getpid())

    assert machine.cpu_seconds(2**22 + 1) is None
    assert (before is None) == (after is None)
    assert before is None or after is None or before < after


def test_a_machine_is_described_for_comparison(tmp_path: Path) -> None:
    told = machine.described(tmp_path)

    assert {"system", "processor", "processors", "python", "sync_ms"} == set(told)
    assert 0 < told["sync_ms"]
    assert [] == list(tmp_path.iterdir())


def test_what_is_not_known_at_both_times_is_not_known() -> None:
    earlier = Usage({"orchestrator": 1.5, "key-holder": None}, {"orchestrator": 10})
    later = Usage(
        {"orchestrator": 4.0, "key-holder": 2.0, "inference-server": 3.0},
        {"orchestrator": 25},
    )

    assert later.since(earlier) == Usage(
        {"orchestrator": 2.5, "key-holder": None, "inference-server": None},
        {"orchestrator": 15},
    )


def test_appends_are_counted_and_their_logs_recomputed(tmp_path: Path) -> None:
    plan = Plan(callers=4, rounds=3, alone=2, together=5)

    report = measure_appends(plan, tmp_path, Narrator(Console(quiet=True)))

    assert (report["callers"], report["rounds"], len(report["gains"])) == (4, 3, 3)
    assert report["group_commit_gain"] == sorted(report["gains"])[1]
    assert min(report["appends_per_s"], report["alone_per_s"], report["p99_ms"]) > 0
    for name, records in (("alone", 24 + 8), ("together", 60 + 8)):
        with sqlite3.connect(tmp_path / name / "registry.db") as database:
            query = "SELECT count(*) FROM audit_leaves"
            assert database.execute(query).fetchone() == (records,)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan = growth.Plan(sizes=(100, 150), looks=3)
    folder = tmp_path_factory.mktemp("growth")
    return growth.measure_growth(plan, folder, Narrator(Console(quiet=True)))


def test_a_log_is_looked_at_at_each_size(grown: dict[str, Any]) -> None:
    assert [look["records"] for look in grown["looks"]] == [100, 150]
    for look in grown["looks"]:
        assert min(look.values()) > 0
        # A body alone is larger, and so is Python.
        assert look["bytes_a_record"] > 500
        assert look["verify_mb"] > 20


def test_growth_is_drawn(grown: dict[str, Any], tmp_path: Path) -> None:
    write_figure(grown["looks"], tmp_path / "growth.svg")

    drawn = (tmp_path / "growth.svg").read_text()
    assert drawn.startswith("<svg")
    assert 'aria-label="What a log costs as it grows"' in drawn


@pytest.mark.parametrize("sizes", ["", "100,x", "200,100", "100,100", "99", "1e3"])
def test_sizes_that_do_not_ascend_are_refused(sizes: str) -> None:
    done = CliRunner().invoke(app, ["growth", "--sizes", sizes])

    assert done.exit_code == 2
    assert "expected ascending numbers" in done.output

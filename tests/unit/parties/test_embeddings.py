"""Embeddings of many owners: those in use in memory, the others on disk."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from core.errors import CorruptFileError, KeyRefusedError, StorageError
from core.statements import IssueStatement
from core.transform import embedding_digest
from core.wire import dump_tensors
from parties.inference_server.embeddings import Embeddings
from parties.inference_server.store import IssuedName, ModelStore, StoredIssue
from tests.unit.parties.stage import MODEL, OWNER_ID

ONE = 8 * 48 * 4  # bytes of one embedding


def issue(number: int) -> StoredIssue:
    weight = np.full((8, 48), number, np.float32)
    said = IssueStatement(
        key_id=f"k{number}",
        key_version=1,
        owner=str(OWNER_ID),
        model=MODEL,
        model_version=1,
        digest=embedding_digest(weight).hex(),
        patch_size=4,
        channels=3,
        hidden=8,
    )
    return StoredIssue(said, weight)


def name(number: int) -> IssuedName:
    return IssuedName(f"k{number}", 1, MODEL, 1)


@dataclass
class Disk:
    """Says how often each was read; may be held up."""

    reads: Counter[str] = field(default_factory=Counter)
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def load(self, statement: IssueStatement) -> StoredIssue:
        self.reads[statement.key_id] += 1
        self.begun.set()
        assert self.go_on.wait(20)
        return issue(int(statement.key_id[1:]))


@pytest.fixture
def disk() -> Disk:
    disk = Disk()
    disk.go_on.set()
    return disk


def filled(disk: Disk, count: int, room: int) -> Embeddings:
    embeddings = Embeddings(disk.load, room * ONE)
    for number in range(count):
        embeddings.add(issue(number))
    return embeddings


def found(embeddings: Embeddings, number: int) -> float:
    kept = embeddings.find(name(number))
    assert kept is not None
    return float(kept.weight[0, 0])


def test_memory_stays_within_the_budget_and_nobody_is_lost(disk: Disk) -> None:
    embeddings = filled(disk, 10, room=3)
    for number in range(10):
        assert found(embeddings, number) == number
        assert embeddings.in_memory <= 3 * ONE


def test_who_asks_often_stays_in_memory(disk: Disk) -> None:
    embeddings = filled(disk, 3, room=2)
    for number in (0, 1, 0, 2, 0, 1, 0):
        found(embeddings, number)

    assert disk.reads["k0"] == 1


def test_one_is_kept_however_small_the_budget(disk: Disk) -> None:
    embeddings = Embeddings(disk.load, 1)
    embeddings.add(issue(1))

    assert found(embeddings, 1) == 1
    assert not disk.reads


def test_many_who_miss_the_same_one_read_it_once(disk: Disk) -> None:
    embeddings = filled(disk, 2, room=1)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: found(embeddings, 0), range(8))) == {0.0}

    assert disk.reads["k0"] == 1


def test_what_was_removed_is_not_found_in_memory_nor_on_disk(disk: Disk) -> None:
    embeddings = filled(disk, 2, room=1)
    for number in range(2):
        embeddings.remove(name(number))
        assert embeddings.find(name(number)) is None

    assert embeddings.in_memory == 0
    assert not disk.reads


def test_what_is_removed_while_it_is_read_is_refused_and_not_kept(disk: Disk) -> None:
    embeddings = filled(disk, 2, room=1)
    disk.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(found, embeddings, 0)
        assert disk.begun.wait(20)
        embeddings.remove(name(0))
        disk.go_on.set()
        with pytest.raises(KeyRefusedError):
            asked.result(20)

    assert embeddings.find(name(0)) is None
    assert embeddings.in_memory == ONE


def test_what_cannot_be_read_as_it_was_issued_is_not_served() -> None:
    def corrupt(_: IssueStatement) -> StoredIssue:
        raise CorruptFileError("changed")

    embeddings = Embeddings(corrupt, ONE)
    for number in range(2):
        embeddings.add(issue(number))
    with pytest.raises(StorageError):
        embeddings.find(name(0))
    assert found(embeddings, 1) == 1


def test_the_store_reads_one_back_and_notices_a_change(tmp_path: Path) -> None:
    store, kept = ModelStore(tmp_path), issue(7)
    content = dump_tensors({"weight": kept.weight})
    store.save_issue(kept.statement.to_bytes(), b"", content, "")
    again = store.read_issue(kept.statement)
    assert (again.statement, again.weight.tolist()) == (
        kept.statement,
        kept.weight.tolist(),
    )

    (path,) = (tmp_path / "issued").glob("*.safetensors")
    path.write_bytes(dump_tensors({"weight": kept.weight + 1}))
    with pytest.raises(Exception, match="statement names"):
        store.read_issue(kept.statement)


def test_without_a_disk_nothing_is_put_out_of_memory() -> None:
    embeddings = Embeddings(budget_bytes=1)
    for number in range(5):
        embeddings.add(issue(number))

    assert [found(embeddings, number) for number in range(5)] == [0, 1, 2, 3, 4]

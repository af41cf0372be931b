"""`keymixer audit receipt` and `audit export` as a person types them."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.rpc.identity import ORCHESTRATOR
from orchestrator.audit.keys import ensure_log_key
from orchestrator.audit.writer import AuditLog
from orchestrator.registry.database import open_database
from orchestrator.settings import Settings
from orchestrator.simulation.workspace import create_workspace
from protos import audit_pb2 as pb
from tests.unit.orchestrator.cli.desk import SCENARIO, Desk, Terminal
from tests.unit.orchestrator.logs import ORIGIN, PUBLIC_KEY, append, opened

SIZE = 5


@pytest.fixture
def log(tmp_path: Path, desk: Desk) -> Iterator[AuditLog]:
    """A log of five records that the desk answers from."""
    with opened(tmp_path) as (database, log):
        append(database, log, SIZE)
        desk.answers |= {
            "ListEntries": lambda asked: _entries(log, asked),
            "GetCheckpoint": lambda _: pb.GetCheckpointResponse(
                checkpoint=log.checkpoint(), public_key=log.public_key
            ),
            "GetInclusionProof": lambda asked: pb.GetInclusionProofResponse(
                path=log.inclusion_proof(asked.index, asked.tree_size).path
            ),
        }
        yield log


def _entries(log: AuditLog, asked: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
    found = log.entries(asked.start, 1000)
    entries = [pb.AuditEntry(index=e.index, body=e.body) for e in found]
    return pb.ListEntriesResponse(entries=entries)


@pytest.fixture
def receipt(log: AuditLog, terminal: Terminal, tmp_path: Path) -> Path:
    path = tmp_path / "record.tlog-proof"
    terminal.text("audit", "receipt", "get", "3", "--out", str(path))
    return path


@pytest.fixture
def alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    """A terminal where there is no federation at all."""
    return Terminal(tmp_path / "nowhere", monkeypatch, capsys)


KEY = ("--public-key", PUBLIC_KEY.hex())


def test_a_receipt_is_written_for_its_owner_alone_and_says_how_to_verify_it(
    log: AuditLog, terminal: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "one.tlog-proof"
    said = terminal.text("audit", "receipt", "get", "3", "--out", str(path))

    assert f"keymixer audit receipt verify {path} {' '.join(KEY)}" in said
    assert path.read_bytes().startswith(b"c2sp.org/tlog-proof@v1\nextra ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_receipt_is_verified_offline_and_read_to_a_person(
    receipt: Path, alone: Terminal
) -> None:
    said = alone.text("audit", "receipt", "verify", str(receipt), *KEY)

    assert "Record 3: verified" in said
    assert "2025-06-15 15:06:40 UTC" in said
    for part in ("hub (operator)", "k3", ORIGIN, "5 records, root "):
        assert part in said


def test_a_receipt_is_verified_for_a_program(
    receipt: Path, alone: Terminal, log: AuditLog
) -> None:
    arguments = ("audit", "receipt", "verify", str(receipt), *KEY, "--origin", ORIGIN)
    said = alone.json(*arguments)

    assert (said["verified"], said["origin"], said["size"]) == (True, ORIGIN, SIZE)
    assert json.loads(log.entries(3, 1)[0].body) == said["record"]


def test_a_changed_receipt_is_refused(receipt: Path, alone: Terminal) -> None:
    receipt.write_bytes(receipt.read_bytes().replace(b"index 3", b"index 2"))
    alone.text("audit", "receipt", "verify", str(receipt), *KEY, code=3)

    assert "record 2: the inclusion path does not lead to the root" in alone.said


def test_a_receipt_of_another_key_or_log_is_refused(
    receipt: Path, alone: Terminal
) -> None:
    verify = ("audit", "receipt", "verify", str(receipt))

    alone.text(*verify, "--public-key", "00" * 32, code=3)
    alone.text(*verify, *KEY, "--origin", "another.log", code=3)


def test_another_file_is_no_receipt(tmp_path: Path, alone: Terminal) -> None:
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    alone.text("audit", "receipt", "verify", str(tmp_path / "file"), *KEY, code=1)

    assert "CorruptFile" in alone.said


@pytest.mark.parametrize("key", ["", "xyz", "00"])
def test_a_key_that_is_none_is_wrong_usage(
    receipt: Path, alone: Terminal, key: str
) -> None:
    verify = ("audit", "receipt", "verify", str(receipt), "--public-key", key)

    alone.text(*verify, code=2)


def test_a_file_that_is_there_is_not_overwritten(
    receipt: Path, terminal: Terminal
) -> None:
    before = receipt.read_bytes()

    terminal.text("audit", "receipt", "get", "2", "--out", str(receipt), code=1)

    assert before == receipt.read_bytes()


def test_a_record_that_is_not_there_leaves_no_file(
    log: AuditLog, terminal: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "none.tlog-proof"
    terminal.text("audit", "receipt", "get", "9", "--out", str(path), code=1)

    assert "no record 9" in terminal.said
    assert not path.exists()


@pytest.fixture
def stopped(alone: Terminal, tmp_path: Path) -> Terminal:
    """A run whose log holds three signed records; nothing of it runs."""
    workspace = create_workspace(tmp_path / "runs", SCENARIO)
    folder = workspace.server_folder(ORCHESTRATOR)
    with open_database(Settings.load(folder).database) as database:
        log = AuditLog(database, ORIGIN, ensure_log_key(folder), lambda: 1)
        append(database, log, 3)
        log.checkpoint()
    alone.run = workspace.root
    return alone


def test_a_log_is_exported_and_verified_from_its_tiles(
    stopped: Terminal, tmp_path: Path
) -> None:
    out = str(tmp_path / "tiles")

    said = stopped.text("audit", "export", out)
    again = stopped.json("audit", "export", out)
    verified = stopped.json("audit", "verify", "--from-tiles", out)

    assert f"keymixer audit verify --from-tiles {out}" in said
    assert {"size": 3, "written": 0, "to": out} == again
    assert (verified["size"], verified["signed_size"]) == (3, 3)


def test_tiles_need_only_the_public_key(stopped: Terminal, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    stopped.text("audit", "export", str(out))
    key = ensure_log_key(_folder(stopped)).public_key().public_bytes_raw().hex()
    stopped.run = tmp_path / "nowhere"
    verify = ("audit", "verify", "--from-tiles", str(out), "--public-key", key)

    assert stopped.text(*verify).startswith("3 records verified")
    (out / "tile/entries/000.p/3").unlink()
    stopped.text(*verify, code=3)
    assert "tile/entries/000.p/3: is missing" in stopped.said


def _folder(terminal: Terminal) -> Path:
    (key,) = terminal.run.rglob("log.key")
    return key.parent


def test_tiles_that_are_not_there_are_wrong_usage(
    alone: Terminal, tmp_path: Path
) -> None:
    missing = str(tmp_path / "nothing")

    alone.text("audit", "verify", "--from-tiles", missing, *KEY, code=2)

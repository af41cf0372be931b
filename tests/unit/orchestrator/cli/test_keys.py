"""`keymixer keys ...` as a person types it, against a scripted orchestrator."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from core.errors import Conflict
from orchestrator.cli.times import now_ms
from protos import audit_pb2, registry_pb2
from protos import workflows_pb2 as pb
from tests.unit.orchestrator.cli.desk import Desk, Terminal

OWNER = "spiffe://digits.keymixer/archive/data-owner"
BANK = "spiffe://digits.keymixer/savings-bank/data-owner"
HOUR_MS = 3_600_000


def _version(version: int, state: str, **fields: Any) -> registry_pb2.KeyVersion:
    given = {
        "key_id": "archive.digits",
        "owner": OWNER,
        "model": "digits",
        "patch_size": 2,
        "channels": 3,
        "generator": "haar-v1",
        "commitment": bytes([version]) * 32,
        "created_at_ms": now_ms() - 3 * 24 * HOUR_MS - HOUR_MS,
        **fields,
    }
    return registry_pb2.KeyVersion(version=version, state=state, **given)


def _three(desk: Desk, *others: registry_pb2.KeyVersion) -> None:
    """One key in the middle of its life: destroyed, retiring, active."""
    versions = [
        *others,
        _version(1, "destroyed"),
        # Half an hour more: it is still eight days off on a machine that is slow.
        _version(
            2, "retiring", retire_at_ms=now_ms() + 8 * 24 * HOUR_MS + HOUR_MS // 2
        ),
        _version(3, "active", primary=True, images_used=12_345),
    ]
    desk.says(registry_pb2.ListKeyVersionsResponse(versions=versions))


def _job(job_id: int, step: str, state: str = "waiting", **fields: Any) -> pb.Job:
    given = {
        "kind": "rotate",
        "subject": "key:archive.digits",
        "owner": OWNER,
        "key_id": "archive.digits",
        "model": "digits",
        **fields,
    }
    return pb.Job(id=job_id, step=step, state=state, **given)


# Seeing.


def test_a_list_says_state_age_images_and_what_happens_next(
    desk: Desk, terminal: Terminal
) -> None:
    _three(desk)

    shown = terminal.text("keys", "list")
    retiring, active = (line for line in shown.splitlines() if "archive" in line)

    assert "retiring" in retiring
    assert "refused in 8d" in retiring
    assert "active" in active
    assert "3d 1h" in active
    assert "12,345" in active
    assert "served until it is rotated" in active


def test_destroyed_versions_are_counted_and_shown_if_asked_for(
    desk: Desk, terminal: Terminal
) -> None:
    _three(desk)

    assert "1 destroyed, not shown" in terminal.text("keys")
    assert "destroyed" in terminal.text("keys", "list", "--all")
    assert "not shown" not in terminal.text("keys", "list", "--all")


def test_a_program_gets_every_version(desk: Desk, terminal: Terminal) -> None:
    _three(desk)

    rows = terminal.json("keys", "list")

    assert ["destroyed", "retiring", "active"] == [row["state"] for row in rows]
    assert rows[2]["commitment"] == "03" * 32
    assert rows == terminal.json("keys")


def test_a_list_names_the_jobs_that_are_stuck(desk: Desk, terminal: Terminal) -> None:
    _three(desk)
    desk.says(pb.ListJobsResponse(jobs=[_job(9, "send", "needs_operator")]))

    assert "keymixer jobs show 9" in terminal.text("keys", "list")


def test_one_key_is_shown_whole(desk: Desk, terminal: Terminal) -> None:
    """Versions, issued models, jobs and policy; of this key only."""
    others = _version(7, "active", key_id="savings-bank.digits", owner=BANK)
    _three(desk, others)
    issued = [
        registry_pb2.IssuedModel(key_id=key, key_version=3, model_version=1)
        for key in ("archive.digits", "savings-bank.digits")
    ]
    desk.says(registry_pb2.ListIssuedModelsResponse(issued=issued))
    desk.says(
        pb.ListJobsResponse(
            jobs=[
                _job(4, "overlap"),
                _job(5, "draw", key_id="savings-bank.digits", subject="key:x"),
                _job(6, "await_release", key_id="", subject="recover:digits"),
            ]
        )
    )

    found = terminal.json("keys", "show", "archive")
    shown = terminal.text("keys", "show", "archive.digits")

    assert [1, 2, 3] == [version["version"] for version in found["versions"]]
    assert ["archive.digits"] == [one["key_id"] for one in found["issued"]]
    assert [4, 6] == [job["id"] for job in found["jobs"]]
    assert found["policy"]["rotation_overlap_s"] == 1
    assert "2 x 2 x 3" in shown
    assert "when an operator asks" in shown
    assert "03" * 32 in shown
    assert "01" * 32 not in shown  # version 1 is destroyed


def test_an_owner_without_a_key_is_not_found(desk: Desk, terminal: Terminal) -> None:
    error = terminal.json("keys", "show", "archive", code=1)["error"]

    assert error["kind"] == "NotFound"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("show", "nobody"), "post-office"),
        (("show", "archive", "--model", "none"), "digits"),
        (("show", "archive.none"), "digits"),
        (("list", "--as", "archive"), "auditors"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    desk: Desk, terminal: Terminal, arguments: tuple[str, ...], names: str
) -> None:
    error = terminal.json("keys", *arguments, code=1)["error"]

    assert error["kind"] == "NotFound"
    assert names in error["message"]


def test_a_history_tells_who_did_what_and_why_oldest_first(
    desk: Desk, terminal: Terminal
) -> None:
    """Of this key only, although the log knows of others of the same owner."""
    records = {
        "key.revoked": [(30, {"key_id": "archive.digits", "reason": "trial ended"})],
        "key.created": [
            (10, {"key_id": "archive.digits"}),
            (11, {"key_id": "archive.other"}),
        ],
        "model.granted": [(5, {"owner": OWNER, "model": "digits"})],
        "job.needs_operator": [
            (12, {"job_subject": "key:archive.digits/1"}),
            (13, {"job_subject": "key:archive.other/1"}),
        ],
        # Requests name nobody whose records they are; these are two owners'.
        "approval.requested": [
            (20, {"arguments": json.dumps({"owner": OWNER, "model": "digits"})}),
            (21, {"arguments": json.dumps({"owner": BANK, "model": "digits"})}),
            (22, {"arguments": json.dumps({"owner": "", "model": "digits"})}),
            (23, {"arguments": json.dumps({"key_id": "savings-bank.digits"})}),
            (24, {"arguments": json.dumps({"spiffe_id": BANK})}),
        ],
    }

    def entries(request: audit_pb2.ListEntriesRequest) -> Any:
        asks_for_all = request.kind.startswith("approval.")
        assert request.party == ("" if asks_for_all else OWNER) or not (
            records.get(request.kind)
        )
        found = [
            audit_pb2.AuditEntry(index=index, body=_body(request.kind, subject))
            for index, subject in records.get(request.kind, [])
        ]
        return audit_pb2.ListEntriesResponse(entries=found)

    desk.answers["ListEntries"] = entries

    indices = [
        record["index"] for record in terminal.json("keys", "history", "archive")
    ]
    shown = terminal.text("keys", "history", "archive")

    assert [5, 10, 12, 20, 22, 30] == indices
    assert "consortium (operator)" in shown
    assert "trial ended" in shown


def _body(kind: str, subject: dict[str, Any]) -> bytes:
    whole = {"key_version": 1, **subject}
    record = {
        "kind": kind,
        "actor": "spiffe://digits.keymixer/consortium/operator",
        "time_ms": 1_700_000_000_000,
        "subject": whole,
    }
    return json.dumps(record).encode()


# Rotating.


def _rotation(**fields: Any) -> pb.Rotation:
    given = {
        "owner": OWNER,
        "key_id": "archive.digits",
        "from_version": 1,
        "to_version": 2,
        "job_id": 7,
        "age_ms": 30 * 24 * HOUR_MS,
        **fields,
    }
    return pb.Rotation(**given)


@pytest.mark.parametrize(
    "arguments",
    [(), ("archive", "--all"), ("archive", "--older-than", "1d"), ("--all", "x", "y")],
)
def test_exactly_one_choice_of_keys_is_rotated(
    desk: Desk, terminal: Terminal, arguments: tuple[str, ...]
) -> None:
    terminal.text("keys", "rotate", *arguments, code=2)

    assert [] == desk.asked


@pytest.mark.parametrize("wrong", ["soon", "-3s", "5 fortnights", ""])
def test_a_duration_that_is_none_is_wrong_usage(
    desk: Desk, terminal: Terminal, wrong: str
) -> None:
    terminal.text("keys", "rotate", "--older-than", wrong, code=2)

    assert [] == desk.asked


def test_a_dry_run_says_what_would_happen_and_asks_for_a_dry_run(
    desk: Desk, terminal: Terminal
) -> None:
    left_out = _rotation(key_id="savings-bank.digits", job_id=0, left_out="too young")
    rotations = [_rotation(job_id=0), left_out]
    desk.says(pb.RotateKeysResponse(rotations=rotations))

    shown = terminal.text(
        *("keys", "rotate", "--older-than", "30d", "--overlap", "10m", "--dry-run")
    )
    request = desk.only("RotateKeys").request

    assert (request.owner, request.model) == ("", "digits")
    assert (request.older_than_s, request.overlap_s) == (30 * 86_400, 600)
    assert request.dry_run
    assert "nothing was changed" in shown
    assert "to version 2" in shown
    assert "left out: too young" in shown
    assert "30d" in shown


def test_the_overlap_is_the_federations_unless_one_is_given(
    desk: Desk, terminal: Terminal
) -> None:
    terminal.json("keys", "rotate", "--all", "--dry-run")

    assert desk.only("RotateKeys").request.overlap_s == 1


def test_rotating_waits_until_the_new_version_is_live(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes with the overlap's beginning, not with its end."""
    monkeypatch.setattr("orchestrator.cli.waiting.POLL_S", 0.0)
    desk.says(pb.RotateKeysResponse(rotations=[_rotation()]))
    steps = iter(["draw", "confirm", "prepare", "send", "overlap"])
    desk.answers["ListJobs"] = lambda _: pb.ListJobsResponse(
        jobs=[_job(7, next(steps))]
    )

    done = terminal.json("keys", "rotate", "archive")

    assert [("live", "overlap")] == [
        (each["standing"], each["step"]) for each in done["progress"]
    ]
    assert next(steps, "none left") == "none left"


def test_an_absent_owner_is_shown_as_waiting_and_holds_nobody_up(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.waiting.POLL_S", 0.0)
    bank = _rotation(owner=BANK, key_id="savings-bank.digits", job_id=8)
    desk.says(pb.RotateKeysResponse(rotations=[_rotation(), bank]))
    jobs = [_job(7, "overlap"), _job(8, "confirm", owner=BANK)]
    desk.says(pb.ListJobsResponse(jobs=jobs))

    told = terminal.text("keys", "rotate", "--all", "--patience", "0s")

    assert "2 of 2 keys" in told
    assert "1 live, 1 waiting, whose present versions are served" in told
    assert "savings-bank" in terminal.said
    assert "waits for savings-bank to fetch it" in terminal.said


def test_a_job_that_needs_an_operator_ends_the_wait_with_an_error(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.RotateKeysResponse(rotations=[_rotation()]))
    stuck = _job(7, "prepare", "needs_operator", why="KeyMismatch")
    desk.says(pb.ListJobsResponse(jobs=[stuck]))

    terminal.text("keys", "rotate", "archive", code=3)

    assert "JobsStuck: not done: job 7" in terminal.said
    assert "keymixer jobs list" in terminal.said


def test_nobody_needs_to_wait(desk: Desk, terminal: Terminal) -> None:
    desk.says(pb.RotateKeysResponse(rotations=[_rotation()]))

    done = terminal.json("keys", "rotate", "archive", "--no-wait")

    assert [7] == [each["job_id"] for each in done["rotations"]]
    assert [] == [each for each in desk.asked if each.method == "ListJobs"]


def test_interrupted_the_jobs_go_on(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.waiting.time.sleep", interrupt)
    desk.says(pb.RotateKeysResponse(rotations=[_rotation()]))
    desk.says(pb.ListJobsResponse(jobs=[_job(7, "confirm")]))

    terminal.text("keys", "rotate", "archive", code=130)

    assert "The jobs go on by themselves" in terminal.said


def test_the_one_key_that_was_named_must_be_rotated(
    desk: Desk, terminal: Terminal
) -> None:
    """Among many, one that is left out is no error; alone, it is."""
    left_out = _rotation(job_id=0, left_out="it is being rotated already")
    desk.says(pb.RotateKeysResponse(rotations=[left_out]))

    alone = terminal.json("keys", "rotate", "archive", code=3)["error"]
    among_all = terminal.json("keys", "rotate", "--all")

    assert "being rotated already" in alone["message"]
    assert len(among_all["rotations"]) == 1


def test_creating_grants_and_follows(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.says(pb.CreateKeyResponse(key_id="archive.digits", version=1, job_id=3))
    desk.says(pb.ListJobsResponse(jobs=[_job(3, "confirm", kind="create")]))

    made = terminal.json("keys", "create", "archive", "--patience", "0s")

    assert desk.only("GrantModel").request.owner == OWNER
    assert (made["key_id"], made["version"]) == ("archive.digits", 1)
    assert ["waiting"] == [each["standing"] for each in made["progress"]]


# Ending, recovering.


@pytest.mark.parametrize(
    ("command", "method"),
    [
        ("revoke", "RevokeKey"),
        ("suspend", "SuspendKey"),
        ("compromised", "ReportCompromise"),
    ],
)
def test_a_reason_is_given_and_goes_on_record(
    desk: Desk, terminal: Terminal, command: str, method: str
) -> None:
    terminal.text("keys", command, "archive", code=2)
    terminal.text("keys", command, "archive", "--reason", "  ", code=2)
    assert [] == desk.asked

    terminal.text("keys", command, "archive", "--reason", "contract ended")
    request = desk.only(method).request

    assert (request.owner, request.model) == (OWNER, "digits")
    assert request.reason == "contract ended"


def test_a_compromise_says_what_was_done_why_it_matters_and_what_is_needed(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(
        pb.ReportCompromiseResponse(
            key_id="archive.digits",
            versions=[2],
            suspended=["savings-bank.digits"],
            recovery_job_id=9,
            needed=["train digits from a fresh start", "register it"],
        )
    )

    told = terminal.text("keys", "compromised", "archive", "--reason", "lost backup")
    content = terminal.json("keys", "compromised", "archive", "--reason", "again")

    assert "version 2 compromised; the next request is refused" in told
    assert "the key of every other owner of digits" in told
    assert "Suspended by policy: savings-bank.digits" in told
    assert told.index("1. train digits") < told.index("2. register it")
    assert content["needed"] == ["train digits from a fresh start", "register it"]
    assert content["recovery_job_id"] == 9


def test_a_leak_that_two_operators_must_report_suspends_the_key_meanwhile(
    desk: Desk, terminal: Terminal
) -> None:
    held = pb.ReportCompromiseResponse(
        key_id="archive.digits", suspended=["archive.digits"], approval_id=7
    )
    desk.says(held)

    told = terminal.text("keys", "compromised", "archive", "--reason", "stolen")

    assert "archive.digits is suspended" in told
    assert "approval 7 waits for another operator" in told
    assert "keymixer approvals approve 7" in told


def test_a_destruction_that_two_operators_take_back_waits_for_the_second(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.RestoreKeyResponse(state="destroy_scheduled", approval_id=8))

    told = terminal.text("keys", "restore", "archive", "--version", "2")

    assert "Nothing was done yet: approval 8 waits" in told


def test_a_leak_of_a_key_that_nothing_was_issued_under_exposes_nobody_else(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.ReportCompromiseResponse(versions=[1], needed=["end the key"]))

    told = terminal.text("keys", "compromised", "archive", "--reason", "stolen")

    assert "every other owner" not in told
    assert "1. end the key" in told


def test_suspended_keys_are_resumed(desk: Desk, terminal: Terminal) -> None:
    desk.says(pb.ResumeKeyResponse(key_id="archive.digits", versions=[1, 2]))

    assert "version 1, version 2 served again" in terminal.text(
        "keys", "resume", "archive"
    )


def test_a_version_is_named_to_restore_or_destroy_it(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.RestoreKeyResponse(state="suspended"))
    desk.says(pb.DestroyKeyResponse(job_id=4))
    terminal.text("keys", "restore", "archive", code=2)
    terminal.text("keys", "destroy", "archive", code=2)

    restored = terminal.json("keys", "restore", "archive", "--version", "2")
    destroyed = terminal.text("keys", "destroy", "archive", "--version", "2")

    assert restored["state"] == "suspended"
    assert "destroyed now, by job 4" in destroyed
    for method in ("RestoreKey", "DestroyKey"):
        request = desk.only(method).request
        assert (request.key_id, request.version) == ("archive.digits", 2)


def test_a_refusal_of_the_orchestrator_is_told_with_its_exit_code(
    desk: Desk, terminal: Terminal
) -> None:
    def refuse(_request: object) -> Any:
        raise Conflict("the window is over")

    desk.answers["RestoreKey"] = refuse

    terminal.text("keys", "restore", "archive", "--version", "2", code=3)


def test_an_export_is_a_file_with_all_that_whoever_opens_it_must_know(
    desk: Desk, terminal: Terminal, tmp_path: Path
) -> None:
    _three(desk)
    desk.says(
        pb.ExportKeyResponse(envelope=b"sealed", signature=b"signed", expires_at_ms=5)
    )
    path = tmp_path / "archive.json"

    terminal.text("keys", "export", "archive", "--out", str(path))
    content = json.loads(path.read_text())

    assert desk.only("ExportKey").request.version == 3
    assert base64.b64decode(content["envelope"]) == b"sealed"
    assert base64.b64decode(content["signature"]) == b"signed"
    assert content["key_id"] == "archive.digits"
    assert content["commitment"] == "03" * 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_export_replaces_no_file(
    desk: Desk, terminal: Terminal, tmp_path: Path
) -> None:
    _three(desk)
    path = tmp_path / "precious.json"
    path.write_text("mine")

    error = terminal.json("keys", "export", "archive", "--out", str(path), code=1)

    assert error["error"]["kind"] == "Configuration"
    assert path.read_text() == "mine"
    assert [] == [each for each in desk.asked if each.method == "ExportKey"]


# Two operators.


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        (pb.CreateKeyResponse(approval_id=3), ("create", "archive")),
        (pb.RotateKeysResponse(approval_id=3), ("rotate", "archive")),
        (pb.RotateKeysResponse(approval_id=3), ("rotate", "--all")),
        (pb.RevokeKeyResponse(approval_id=3), ("revoke", "archive", "--reason", "x")),
        (
            pb.DestroyKeyResponse(approval_id=3),
            ("destroy", "archive", "--version", "1"),
        ),
        (pb.ExportKeyResponse(approval_id=3), ("export", "archive", "--out", "x.json")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_waits_for_another_operator_says_so_and_is_no_error(
    desk: Desk,
    terminal: Terminal,
    tmp_path: Path,
    answer: Any,
    arguments: tuple[str, ...],
) -> None:
    _three(desk)
    desk.says(answer)
    typed = [str(tmp_path / each) if each == "x.json" else each for each in arguments]

    told = terminal.text("keys", *typed)
    content = terminal.json("keys", *typed, "--as", "auditors")

    assert told.startswith(
        "Nothing was done yet: approval 3 waits for another operator"
    )
    assert "keymixer approvals approve 3 --as auditors" in told
    assert content["approval_id"] == 3
    assert not (tmp_path / "x.json").exists()


def test_an_operator_acts_under_its_own_name(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By option, by environment, and as the first operator if nobody is named."""
    terminal.text("keys", "resume", "archive")
    terminal.text("keys", "resume", "archive", "--as", "auditors")
    monkeypatch.setenv("KEYMIXER_OPERATOR", "auditors")
    terminal.text("keys", "resume", "archive")

    assert ["consortium", "auditors", "auditors"] == [
        each.organisation for each in desk.asked
    ]

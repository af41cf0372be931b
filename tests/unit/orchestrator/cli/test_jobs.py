"""`keymixer jobs | approvals | models | parties` as a person types it."""

from typing import Any

import pytest

from core.errors import NotAllowedError
from orchestrator.cli.times import now_ms
from protos import registry_pb2
from protos import workflows_pb2 as pb
from tests.unit.orchestrator.cli.desk import Desk, Terminal

# And half an hour, so that it is a day off on a machine that is slow too.
A_DAY_MS = (24 * 60 + 30) * 60_000
CONSORTIUM = "spiffe://digits.keymixer/consortium/operator"


def _job(job_id: int, state: str = "waiting", **fields: Any) -> pb.Job:
    given = {
        "kind": "destroy",
        "subject": f"key:archive.digits/{job_id}",
        "step": "window",
        **fields,
    }
    return pb.Job(id=job_id, state=state, **given)


def _office(desk: Desk, jobs: list[pb.Job]) -> None:
    """Answers as the orchestrator does: by id or all, newest first, page by page."""

    def listed(request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        found = [
            job
            for job in sorted(jobs, key=lambda job: -job.id)
            if (not request.ids or job.id in request.ids)
            and (not request.before or job.id < request.before)
            and not (request.open and job.state in {"done", "aborted"})
        ]
        return pb.ListJobsResponse(jobs=found[:1000])

    desk.answers["ListJobs"] = listed


def test_open_jobs_are_listed_and_all_if_asked_for(
    desk: Desk, terminal: Terminal
) -> None:
    _office(desk, [_job(1, "done"), _job(2), _job(3, "needs_operator")])

    assert [3, 2] == [job["id"] for job in terminal.json("jobs", "list")]
    assert [3, 2] == [job["id"] for job in terminal.json("jobs")]
    assert [3, 2, 1] == [job["id"] for job in terminal.json("jobs", "list", "--all")]


def test_more_jobs_than_a_page_are_listed_up_to_the_limit(
    desk: Desk, terminal: Terminal
) -> None:
    _office(desk, [_job(n) for n in range(1, 2502)])

    found = terminal.json("jobs", "list", "--limit", "2500")
    few = terminal.json("jobs", "list", "--limit", "3")

    assert list(range(2501, 1, -1)) == [job["id"] for job in found]
    assert [2501, 2500, 2499] == [job["id"] for job in few]


def test_a_person_reads_when_a_job_goes_on_and_why_it_waits(
    desk: Desk, terminal: Terminal
) -> None:
    at_ms = now_ms() + A_DAY_MS
    _office(
        desk,
        [
            _job(1, why="until the window ends", next_at_ms=at_ms),
            _job(2, why="for the owner"),
        ],
    )

    second, first = (
        line for line in terminal.text("jobs").splitlines() if "archive" in line
    )

    assert "in 1d: until the window ends" in first
    assert "for the owner" in second


def test_a_job_is_shown_with_those_it_started_and_what_can_be_done(
    desk: Desk, terminal: Terminal
) -> None:
    _office(
        desk,
        [
            _job(4),
            _job(5, "needs_operator", kind="recover", why="Conflict: x"),
            _job(6, parent_id=5),
            _job(7, parent_id=4),
        ],
    )

    shown = terminal.text("jobs", "show", "5")
    found = terminal.json("jobs", "show", "5")

    assert "Conflict: x" in shown
    assert "keymixer jobs retry 5, or keymixer jobs abort 5 --reason" in shown
    assert [6] == [child["id"] for child in found["children"]]


def test_an_unknown_job_is_not_found(desk: Desk, terminal: Terminal) -> None:
    assert terminal.json("jobs", "show", "9", code=1)["error"]["kind"] == "NotFound"


def test_a_job_is_retried_or_aborted_with_a_reason(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.RetryJobResponse(job=_job(5, "ready")))
    desk.says(pb.AbortJobResponse(job=_job(5, "aborted")))
    terminal.text("jobs", "abort", "5", code=2)

    assert terminal.json("jobs", "retry", "5")["state"] == "ready"
    assert "job 5 is aborted" in terminal.text("jobs", "abort", "5", "--reason", "x y")
    assert desk.only("AbortJob").request.reason == "x y"


def _approval(state: str = "pending") -> pb.Approval:
    return pb.Approval(
        id=3,
        action="revoke_key",
        arguments='{"owner":"spiffe://digits.keymixer/archive/data-owner"}',
        requested_by=CONSORTIUM,
        approved_by=[CONSORTIUM],
        state=state,
        expires_at_ms=now_ms() + A_DAY_MS,
    )


def test_who_asked_for_what_is_listed(desk: Desk, terminal: Terminal) -> None:
    desk.says(pb.ListApprovalsResponse(approvals=[_approval()]))

    shown = terminal.text("approvals")
    (found,) = terminal.json("approvals", "list", "--all")

    assert "owner archive" in shown
    assert "consortium (operator)" in shown
    assert "in 1d" in shown
    assert found["approved_by"] == [CONSORTIUM]
    assert [True, False] == [each.request.open for each in desk.asked]


@pytest.mark.parametrize(
    ("state", "means"),
    [("executed", "it is done"), ("approved", "same command again")],
)
def test_an_approval_says_what_it_led_to(
    desk: Desk, terminal: Terminal, state: str, means: str
) -> None:
    desk.says(pb.ApproveResponse(approval=_approval(state)))

    assert means in terminal.text("approvals", "approve", "3", "--as", "auditors")
    assert desk.only("Approve").organisation == "auditors"


def test_approving_ones_own_request_is_refused(desk: Desk, terminal: Terminal) -> None:
    def refuse(_request: object) -> Any:
        raise NotAllowedError("one's own")

    desk.answers["Approve"] = refuse

    error = terminal.json("approvals", "approve", "3", code=3)["error"]

    assert error["kind"] == "NotAllowed"


def test_a_rejection_needs_a_reason(desk: Desk, terminal: Terminal) -> None:
    desk.says(pb.RejectResponse(approval=_approval("rejected")))
    terminal.text("approvals", "reject", "3", code=2)

    told = terminal.text("approvals", "reject", "3", "--reason", "not agreed")

    assert "is rejected" in told


def test_a_party_is_named_by_organisation_and_role(
    desk: Desk, terminal: Terminal
) -> None:
    desk.says(pb.RevokePartyResponse(key_ids=["archive.digits"]))

    told = terminal.text(
        "parties", "revoke", "archive", "data-owner", "--reason", "left"
    )
    error = terminal.json(
        *("parties", "revoke", "archive", "key-holder", "--reason", "left"), code=1
    )["error"]

    assert "keys revoked: archive.digits" in told
    assert desk.only("RevokeParty").request.spiffe_id == (
        "spiffe://digits.keymixer/archive/data-owner"
    )
    assert "keyhouse" in error["message"]


def test_a_version_is_made_the_champion(desk: Desk, terminal: Terminal) -> None:
    known = registry_pb2.ModelVersion(name="digits", version=2)
    desk.says(registry_pb2.ListModelVersionsResponse(versions=[known]))
    told = terminal.text("models", "alias", "digits", "champion", "2")
    request = desk.only("SetAlias").request

    assert "champion of digits is version 2 now" in told
    assert (request.name, request.alias, request.version) == ("digits", "champion", 2)


def test_parties_are_listed_with_and_without_the_word(
    desk: Desk, terminal: Terminal
) -> None:
    party = registry_pb2.Party(
        organisation="archive", role="data-owner", state="active"
    )
    desk.says(registry_pb2.ListPartiesResponse(parties=[party]))

    assert terminal.json("parties") == terminal.json("parties", "list")

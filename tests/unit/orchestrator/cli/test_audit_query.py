"""`keymixer audit list | tail | summary | trace`, on a real log behind the wire."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import ConfigurationError, PeerUnavailable
from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from orchestrator.audit.records import Fact
from orchestrator.audit.service import AuditService
from orchestrator.cli import audit_query
from orchestrator.cli.audit_rows import COLUMNS, iso, plain, print_csv
from orchestrator.cli.audit_summary import quantile
from orchestrator.cli.audit_tail import LogShrunk, Tail
from orchestrator.cli.times import moment_ms
from orchestrator.registry.service import RegistryService
from protos import audit_pb2 as pb
from tests.fakes import fake_context
from tests.unit.orchestrator.cli.desk import Desk, Terminal
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    SERVER_ID,
    Office,
)

KEY = "alder.cells"
SECOND_MS = 1000


def _behind(desk: Desk, office: Office) -> None:
    """Have the desk answer as the office's orchestrator does."""
    audit, registry = AuditService(office.registry), RegistryService(office.registry)
    served = {
        "ListEntries": audit,
        "EraseNote": audit,
        "ListKeyVersions": registry,
        "ListIssuedModels": registry,
        "ListModelVersions": registry,
    }

    def answers(method: str) -> Any:
        def answer(request: Any) -> Any:
            with acting_as(OPERATOR_ID):
                return getattr(served[method], method)(request, fake_context())

        return answer

    desk.answers |= {method: answers(method) for method in served}


@pytest.fixture
def office(office: Office, desk: Desk) -> Office:
    _behind(desk, office)
    return office


def _note(office: Office, kind_: str, **facts: Fact) -> int:
    with office.change(SERVER_ID) as change:
        return change.record(kind_, facts)


def _answer(office: Office, owner: SpiffeId, compute_ms: float, **facts: Fact) -> int:
    given: dict[str, Fact] = {
        "owner": str(owner),
        "key_id": f"{owner.organisation}.{MODEL}",
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
        "images": 2,
        "request_id": "r1",
        "compute_ms": compute_ms,
    }
    kind = "inference.refused" if "refusal" in facts else "inference"
    return _note(office, kind, **(given | facts))


# Listing.


def test_filters_reach_the_server_and_only_what_fits_is_shown(
    office: Office, terminal: Terminal, desk: Desk
) -> None:
    index = _answer(office, ALDER_ID, 1.0, refusal="KeyRefused")
    _answer(office, BIRCH_ID, 1.0, refusal="KeyRefused")
    _answer(office, ALDER_ID, 1.0)
    filters = ("--organisation", "alder", "--model", MODEL, "--key", KEY, "--refused")
    (row,) = terminal.json("audit", "list", *filters)

    assert row["index"] == index
    assert "KeyRefused" in terminal.text("audit", "list", *filters)
    asked = desk.asked[0].request
    assert ("alder", MODEL, KEY) == (asked.organisation, asked.model, asked.key_id)
    assert asked.refused


def test_an_owner_is_named_as_elsewhere(
    office: Office, terminal: Terminal, desk: Desk
) -> None:
    assert office.folder
    terminal.json("audit", "list", "--owner", "archive")
    terminal.json("audit", "list", "--owner", str(ALDER_ID))
    asked = [each.request.owner for each in desk.asked]

    assert ["spiffe://digits.keymixer/archive/data-owner", str(ALDER_ID)] == asked
    assert "no data owner" in str(
        terminal.json("audit", "list", "--owner", "ghost", code=1)
    )


def test_lines_are_the_records_as_hashed(office: Office, terminal: Terminal) -> None:
    shown = terminal.text("audit", "list", "--format", "jsonl", "--limit", "3")
    stored = [entry.body.decode() for entry in office.registry.log.entries(0, 3)]

    assert stored == shown.splitlines()


def test_a_limit_holds_over_pages(office: Office, terminal: Terminal) -> None:
    with office.change() as change:
        for _ in range(1100):
            change.record("key.created", {"key_id": "k"})
    rows = terminal.json("audit", "list", "--kind", "key.created", "--limit", "1050")

    assert len({row["index"] for row in rows}) == 1050


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_runs_nothing(
    office: Office, terminal: Terminal, first: str
) -> None:
    """A requester chooses its request id itself."""
    formula = f'{first}HYPERLINK("http://x")'
    _answer(office, ALDER_ID, 1.0, request_id=formula)
    text = terminal.text("audit", "list", "--kind", "inference", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))

    assert tuple(row) == COLUMNS
    assert row["request_id"] == f"'{formula}"
    assert json.loads(row["facts"])["request_id"] == formula
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in row.values())


def test_a_list_without_records_still_has_its_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_csv([])

    assert ",".join(COLUMNS) == capsys.readouterr().out.strip()


def test_a_terminal_is_only_written_to() -> None:
    assert "?[31mé" == plain("\x1b[31mé")


def test_a_fact_that_only_begins_like_an_identity_is_shown_as_it_is(
    office: Office, terminal: Terminal
) -> None:
    """A party chooses the facts of what it reports."""
    _note(office, "refused", caller="spiffe://nowhere", key_id="spiffe://a/b/c/d")

    assert "caller spiffe://nowhere" in terminal.text("audit", "list", "--refused")


# Times.

NOW_MS = 1_750_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW_MS - 7_200 * SECOND_MS),
        (" 1.5m ", NOW_MS - 90 * SECOND_MS),
        ("2025-06-15T15:06:40", NOW_MS),
        ("2025-06-15T15:06:40Z", NOW_MS),
        ("2025-06-15T17:06:40.250+02:00", NOW_MS + 250),
        ("2025-06-15", NOW_MS - 54_400 * SECOND_MS),
    ],
)
def test_a_moment_is_a_time_or_a_duration_ago(text: str, expected: int) -> None:
    assert expected == moment_ms(text, NOW_MS)


@pytest.mark.parametrize(
    "text", ["yesterday", "2025-13-01", "12", "-2h", "1969-12-31", "99999w", "2h ago"]
)
def test_what_is_no_moment_is_said_to_be_none(text: str, terminal: Terminal) -> None:
    with pytest.raises(ConfigurationError, match="a duration ago such as 2h"):
        moment_ms(text, NOW_MS)
    terminal.text("audit", "list", f"--since={text}", code=2)

    assert "expected a time such as" in " ".join(terminal.said.split())


def test_since_and_until_bound_what_is_listed(
    office: Office, terminal: Terminal
) -> None:
    before = _answer(office, ALDER_ID, 1.0)
    office.clock.pass_seconds(3600)
    between = _answer(office, ALDER_ID, 1.0)
    office.clock.pass_seconds(3600)
    after = _answer(office, ALDER_ID, 1.0)
    times = {e.index: e.time_ms for e in office.entries("inference")}

    def listed(**span: int) -> list[int]:
        given = [f"--{name}={iso(at)}" for name, at in span.items()]
        rows = terminal.json("audit", "list", "--kind", "inference", *given)
        return [row["index"] for row in rows]

    assert [between, after] == listed(since=times[between])
    assert [before, between] == listed(until=times[after])
    assert [between] == listed(since=times[between], until=times[after])


# Following.


class _EnoughError(Exception):
    """The test has seen enough."""


class _Growing:
    """A log that grows, or goes away, each time the tail pauses."""

    def __init__(self, *steps: int | None) -> None:
        self._steps: Iterator[int | None] = iter(steps)
        self.size: int | None = next(self._steps)

    def ask(self, request: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
        """Two records a page; None is away."""
        if self.size is None:
            raise PeerUnavailable("away")
        last = min(self.size, request.start + 2)
        found = [
            pb.AuditEntry(index=index, body=str(index).encode())
            for index in range(request.start, last)
        ]
        more = last if last < self.size and found else 0
        return pb.ListEntriesResponse(entries=found, next_start=more, size=self.size)

    def pause(self, _seconds: float) -> None:
        try:
            self.size = next(self._steps)
        except StopIteration:
            raise _EnoughError from None


def _followed(log: _Growing, said: list[str], start: int | None = None) -> list[int]:
    tail = Tail(log.ask, said.append, log.pause)
    entries = tail.follow(pb.ListEntriesRequest(), start)
    seen: list[int] = []
    with pytest.raises(_EnoughError):
        seen.extend(entry.index for entry in entries)
    return seen


def test_a_tail_begins_at_the_end_and_gives_each_new_record_once() -> None:
    assert [3, 4, 5, 6, 7] == _followed(_Growing(3, 3, 4, 8, 8), [])


def test_a_tail_may_begin_earlier() -> None:
    assert [1, 2, 3] == _followed(_Growing(3, 4), [], start=1)


def test_a_restart_is_said_once_and_nothing_is_missed() -> None:
    said: list[str] = []

    assert [2, 3, 4] == _followed(_Growing(2, 3, None, None, None, 5, 5), said)
    assert ["is away" in said[0], "is back" in said[1]] == [True, True]
    assert len(said) == 2


def test_an_orchestrator_that_was_never_there_is_an_error() -> None:
    with pytest.raises(PeerUnavailable):
        _followed(_Growing(None), [])


def test_a_log_that_was_put_back_is_noticed() -> None:
    log = _Growing(5, 4)
    tail = Tail(log.ask, print, log.pause)

    with pytest.raises(LogShrunk, match="held 5 records, and holds 4"):
        list(tail.follow(pb.ListEntriesRequest(), None))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--format", "jsonl"), '"kind":"inference.refused"'),
        ((), "refuses to release an answer to alder: KeyRefused"),
    ],
)
def test_ctrl_c_ends_a_tail_with_its_code(
    office: Office,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    _answer(office, ALDER_ID, 1.0, refusal="KeyRefused")

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_query, "sleep", interrupt)
    filters = ("--refused", "--start", "0")
    shown = terminal.text("audit", "tail", *filters, *arguments, code=130)

    assert told in shown


# In sum.


def test_versions_of_a_model_are_compared_by_themselves(
    office: Office, terminal: Terminal
) -> None:
    """A release that is tried stands beside the one that is used."""
    for _ in range(3):
        _answer(office, ALDER_ID, 5.0)
    _answer(office, ALDER_ID, 9.0, model_version=2)
    rows = terminal.json("audit", "summary", "--by-version")

    assert [(f"{MODEL}:1", 3, 5.0), (f"{MODEL}:2", 1, 9.0)] == [
        (row["model"], row["answered"], row["compute_ms_median"]) for row in rows
    ]


def test_a_summary_counts_as_a_person_would(office: Office, terminal: Terminal) -> None:
    start_ms = office.clock()
    for compute_ms in range(1, 19):
        _answer(office, ALDER_ID, float(compute_ms))
    for compute_ms in (19, 20):
        _answer(office, ALDER_ID, float(compute_ms), latency_ms=100.0)
    _answer(office, ALDER_ID, 9.0, refusal="KeyRefused")
    _answer(office, ALDER_ID, 9.0, refusal="KeyRefused")
    _answer(office, ALDER_ID, 9.0, refusal="NotGranted")
    _answer(office, BIRCH_ID, 7.0, model="bones")
    _note(office, "refused", caller=str(BIRCH_ID), kind="NotAllowed", method="/x/Y")
    birch, bones, alder = sorted(
        terminal.json("audit", "summary"),
        key=lambda row: (row["organisation"] != "birch", row["model"]),
    )

    assert alder["first_ms"] >= start_ms
    del alder["first_ms"], alder["last_ms"]
    assert alder == {
        "organisation": "alder",
        "model": MODEL,
        "answered": 20,
        "images": 40,
        "refused": 3,
        "refusals": {"KeyRefused": 2, "NotGranted": 1},
        "compute_ms_median": 10.0,
        "compute_ms_p95": 19.0,
        "latency_ms_median": 10.0,
        "latency_ms_p95": 100.0,
    }
    assert (bones["answered"], bones["compute_ms_p95"]) == (1, 7.0)
    assert (birch["answered"], birch["compute_ms_p95"]) == (0, None)
    assert birch["refusals"] == {"NotAllowed": 1}
    shown = terminal.text("audit", "summary")
    assert "2 KeyRefused, 1 NotGranted" in shown
    assert "10.0 ms" in shown


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([4.0], 4.0), ([3.0, 1.0], 3.0)]
)
def test_the_slow_end_of_few_values_is_the_slowest(
    values: list[float], expected: float | None
) -> None:
    assert expected == quantile(values, 0.95)


# Tracing.


def test_an_answer_leads_to_its_key_model_training_and_data(
    office: Office, terminal: Terminal
) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.release(seed=5)
    index = _answer(office, ALDER_ID, 1.5, request_id="r-7")
    found = terminal.json("audit", "trace", "r-7")
    (trace,) = found["traces"]
    release = trace["model_version"]

    assert found["request_id"] == "r-7"
    assert trace["record"]["index"] == index
    assert (KEY, 1) == (trace["key_version"]["key_id"], trace["key_version"]["version"])
    assert [r["kind"] for r in trace["key_version"]["records"]] == [
        *("key.created", "key.drawn", "key.confirmed", "key.activated")
    ]
    assert trace["issued_model"]["digest"]
    assert (release["model"], release["version"]) == (MODEL, 1)
    assert ("a" * 64, "b" * 64) == (
        release["embedding_sha256"],
        release["backbone_sha256"],
    )
    (registered,) = release["records"]
    assert registered["actor"] == release["provider"]
    assert registered["subject"]["manifest_sha256"] == release["manifest_sha256"]
    assert trace["training"] == {"seed": 0}
    shown = terminal.text("audit", "trace", "r-7")
    for told in ("request r-7", KEY, "b" * 64, "registers cells version 1", "training"):
        assert told in shown


def test_what_a_refused_request_only_claims_is_not_known(
    office: Office, terminal: Terminal
) -> None:
    _answer(
        *(office, ALDER_ID, 1.5),
        request_id="r-8",
        model_version=9,
        refusal="KeyRefused",
    )
    (trace,) = terminal.json("audit", "trace", "r-8")["traces"]

    assert [None] * 4 == [
        trace[name]
        for name in ("key_version", "issued_model", "model_version", "training")
    ]
    assert "not known" in terminal.text("audit", "trace", "r-8")


def test_two_requests_of_one_id_are_both_followed(
    office: Office, terminal: Terminal
) -> None:
    both = [_answer(office, owner, 1.0) for owner in (ALDER_ID, BIRCH_ID)]
    traces = terminal.json("audit", "trace", "r1")["traces"]

    assert both == [trace["record"]["index"] for trace in traces]


def test_a_release_that_is_not_the_recorded_one_is_refused(
    office: Office, terminal: Terminal
) -> None:
    _answer(office, ALDER_ID, 1.0)
    _note(
        *(office, "model.registered"),
        model=MODEL,
        model_version=1,
        manifest_sha256="0" * 64,
    )
    told = terminal.json("audit", "trace", "r1", code=3)

    assert told["error"]["kind"] == "LineageBroken"


@pytest.mark.parametrize("request_id", ["ghost", ""])
def test_an_unknown_request_ends_with_a_hint(
    office: Office, terminal: Terminal, request_id: str
) -> None:
    assert office.folder
    told = terminal.json("audit", "trace", request_id, code=1)

    assert told["error"]["kind"] == "RequestUnknown"
    assert "keymixer audit list" in told["error"]["next"]


# What was typed.


def _suspension(office: Office, why: str) -> int:
    with office.change() as change:
        return change.record("key.held", {"key_id": KEY, "reason": why})


@pytest.mark.parametrize(
    "asked",
    [
        ("audit", "list"),
        ("audit", "list", "--format", "csv"),
        ("audit", "tail", "--start", "0"),
    ],
    ids=" ".join,
)
def test_what_was_typed_is_shown_until_it_is_erased(
    office: Office,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, ...],
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit_query, "sleep", interrupt)
    code = 130 if "tail" in asked else 0
    index = _suspension(office, "her laptop is lost")

    assert "her laptop is lost" in terminal.text(*asked, code=code)

    terminal.text("audit", "erase", str(index), "--reason", "she asked for it")
    shown = terminal.text(*asked, code=code)

    assert "her laptop is lost" not in shown
    assert "(erased)" in shown
    assert "she asked for it" in shown


def test_one_record_is_shown_as_it_was_hashed_and_with_its_note(
    office: Office, terminal: Terminal
) -> None:
    index = _suspension(office, "her laptop is lost")
    shown = terminal.text("audit", "show", str(index))

    assert '"reason_hmac"' in shown
    assert "her laptop is lost" in shown
    assert "reason" not in terminal.json("audit", "show", str(index))["subject"]


def test_an_erasure_names_the_other_records_with_the_same_text(
    office: Office, terminal: Terminal
) -> None:
    first, other = (_suspension(office, "lost") for _ in range(2))
    erase = ("audit", "erase", str(first), "--reason", "asked for")

    assert {"erased": first, "same_text": [other]} == terminal.json(*erase)
    told = terminal.text("audit", "erase", str(other), "--reason", "asked for")
    assert f"record {other} is erased" in told


def test_an_erasure_needs_a_reason(office: Office, terminal: Terminal) -> None:
    index = _suspension(office, "lost")
    terminal.text("audit", "erase", str(index), code=2)

    assert "lost" in terminal.text("audit", "list")

"""`keymixer models show | compare | history`: a version by its name, now and then."""

import json
from typing import Any

import pytest

from core.errors import InvalidInput
from core.manifest import Manifest
from orchestrator.cli.model_names import ModelName
from orchestrator.cli.model_views import _facts
from protos.audit_pb2 import AuditEntry, ListEntriesRequest, ListEntriesResponse
from protos.registry_pb2 import ListModelVersionsResponse, ModelVersion
from tests.fuzz.specimens import DROWNED, HIGH_PASSED, MANIFEST
from tests.unit.orchestrator.cli.desk import Desk, Terminal

DAY_MS = 86_400_000
# 2026-01-01, in milliseconds.
START_MS = 1_767_225_600_000


def version(number: int, *aliases: str, **manifest: Any) -> ModelVersion:
    said = {"name": "digits", "metrics": {"test_accuracy": 0.9}, "lineage": {}}
    return ModelVersion(
        name="digits",
        version=number,
        aliases=aliases,
        manifest=json.dumps(said | manifest).encode(),
        created_at_ms=START_MS + number * DAY_MS,
    )


def moved(index: int, alias: str, to: int, day: int) -> AuditEntry:
    body = {
        "actor": "spiffe://digits.keymixer/consortium/operator",
        "index": index,
        "kind": "alias.moved",
        "subject": {"model": "digits", "model_version": to, "alias": alias},
        "time_ms": START_MS + day * DAY_MS,
        "v": 1,
    }
    return AuditEntry(index=index, body=json.dumps(body).encode())


MOVES = (
    moved(5, "champion", 1, day=1),
    moved(7, "trial", 2, day=2),
    moved(9, "champion", 2, day=3),
)


def listed(request: ListEntriesRequest) -> ListEntriesResponse:
    """As the log does: a bound in time is exclusive, and 0 is none."""
    assert (request.kind, request.model) == ("alias.moved", "digits")
    entries = [
        each
        for each in MOVES
        if not request.until_ms or json.loads(each.body)["time_ms"] < request.until_ms
    ]
    return ListEntriesResponse(entries=entries)


@pytest.fixture(autouse=True)
def two_versions(desk: Desk) -> None:
    other = version(2, "champion", "trial", metrics={"test_accuracy": 0.95})
    desk.says(ListModelVersionsResponse(versions=[version(1), other]))
    desk.answers["ListEntries"] = listed


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("digits",), 2),
        (("digits:1",), 1),
        (("digits@champion",), 2),
        # The moment of the move itself counts; one before, and the one before it holds.
        (("digits@champion", "--as-of", "2026-01-04"), 2),
        (("digits@champion", "--as-of", "2026-01-03T23:59:59"), 1),
        (("digits", "--as-of", "2026-01-02T12:00:00"), 1),
    ],
)
def test_a_name_means_a_version_now_or_then(
    terminal: Terminal, named: tuple[str, ...], expected: int
) -> None:
    assert expected == terminal.json("models", "show", *named)["version"]


@pytest.mark.parametrize(
    "named",
    [
        ("digits:3",),
        ("digits@nobody",),
        ("digits@champion", "--as-of", "2026-01-01T12:00:00"),
        ("digits:2", "--as-of", "2026-01-02T12:00:00"),
    ],
)
def test_what_there_is_not_or_was_not_yet_is_not_found(
    terminal: Terminal, named: tuple[str, ...]
) -> None:
    assert (
        "NotFound" == terminal.json("models", "show", *named, code=1)["error"]["kind"]
    )


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("digits:3",), "digits has no version 3; there are 1, 2"),
        (("digits@nobody",), "has no alias nobody; there are champion, trial"),
        (
            ("digits@trial", "--as-of", "2026-01-02"),
            "has no alias trial at 2026-01-02 00:00:00; there are champion",
        ),
        (
            ("digits", "--as-of", "2025-12-31"),
            "had no version at 2025-12-31 00:00:00; its first is of 2026-01-02",
        ),
        (("digits", "--as-of", "soon"), "expected a time such as 2026-01-31T12"),
    ],
)
def test_who_asks_for_what_is_not_there_is_told_what_is(
    terminal: Terminal, named: tuple[str, ...], told: str
) -> None:
    error = terminal.json("models", "show", *named, code=1)["error"]

    assert told in error["message"]


def test_a_model_that_is_none_is_answered_with_those_there_are(
    terminal: Terminal, desk: Desk
) -> None:
    known = desk.answers["ListModelVersions"]
    none = ListModelVersionsResponse()
    desk.answers["ListModelVersions"] = lambda asked: none if asked.name else known(0)
    for words in (("show", "cells"), ("alias", "cells", "champion", "1")):
        error = terminal.json("models", *words, code=1)["error"]

        assert ("NotFound", "cells is no model here; there are digits") == (
            *(error["kind"], error["message"]),
        )


def test_an_alias_is_moved_to_a_version_there_is(
    terminal: Terminal, desk: Desk
) -> None:
    said = terminal.text("models", "alias", "digits", "candidate", "1")
    error = terminal.json("models", "alias", "digits", "candidate", "7", code=1)

    moved = desk.only("SetAlias").request
    assert ("digits", "candidate", 1) == (moved.name, moved.alias, moved.version)
    assert "candidate of digits is version 1 now" in said
    assert "keymixer issued" in said
    assert "has no version 7; there are 1, 2" in error["error"]["message"]


@pytest.mark.parametrize("text", ["", "a@b@c", "a:b", "a:1@b", "@champion"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        ModelName.parse(text)


def test_what_is_shown_to_a_person_has_a_line_for_each_nested_fact(
    terminal: Terminal,
) -> None:
    shown = terminal.text("models", "show", "digits@champion")

    assert "metrics.test_accuracy" in shown
    assert "0.95" in shown


def test_only_differences_are_compared(terminal: Terminal) -> None:
    rows = terminal.json("models", "compare", "digits:1", "digits@champion")

    compared = {row["what"]: (row["one"], row["other"]) for row in rows}
    assert ("0.9", "0.95") == compared["metrics.test_accuracy"]
    assert ("1", "2") == compared["version"]
    assert "provider" not in compared


def test_the_history_of_aliases_is_the_logs(terminal: Terminal) -> None:
    rows = terminal.json("models", "history", "digits")

    assert [(5, "champion", 1), (7, "trial", 2), (9, "champion", 2)] == [
        (row["index"], row["alias"], row["version"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [(MANIFEST, "none"), (HIGH_PASSED, "highpass:2"), (DROWNED, "noise:0.1")],
)
def test_a_shield_is_shown_by_its_name_and_not_by_its_numbers(
    manifest: Manifest, expected: str
) -> None:
    version = ModelVersion(name="cells", version=1, manifest=manifest.to_bytes())

    assert expected == _facts(version)["shield"]

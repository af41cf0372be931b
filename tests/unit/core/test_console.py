"""How every command prints: for the eye, and for programs."""

import json

import pytest

from core.console import print_facts, print_rows, progress_bar

ROWS = [{"key_id": "st-anna.convmixer", "state": "destroy_scheduled", "next": "soon"}]
COLUMNS = {"key_id": "key", "state": "state", "next": "next"}
RED, PLAIN = "\x1b[31m", "\x1b["


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


def test_a_state_has_the_colour_of_its_word(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows("Keys", ROWS, COLUMNS, as_json=False)

    assert f"{RED}destroy_scheduled" in capsys.readouterr().out


def test_a_program_gets_no_colours(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows("Keys", ROWS, COLUMNS, as_json=True)
    printed = capsys.readouterr().out

    assert PLAIN not in printed
    assert ROWS == json.loads(printed)


def test_ids_and_states_stay_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What folds is the last column."""
    monkeypatch.setenv("COLUMNS", "48")
    rows = [{**ROWS[0], "next": "destroyed in 6d 23h unless taken back"}]
    print_rows("Keys", rows, COLUMNS, as_json=False)
    lines = capsys.readouterr().out.splitlines()

    assert any("st-anna.convmixer  destroy_scheduled" in line for line in lines)
    assert max(map(len, lines)) <= 48


def test_markup_in_a_fact_is_printed_and_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A reason is what somebody typed."""
    print_rows("Keys", [{**ROWS[0], "next": "[red]x[/red]"}], COLUMNS, as_json=False)
    print_facts("One", {"reason": "[red]y[/red]", "empty": ""})
    printed = capsys.readouterr().out

    assert "[red]x[/red]" in printed
    assert "[red]y[/red]" in printed
    assert "empty" not in printed


def test_a_long_fact_is_folded_and_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_facts("One", {"commitment": "0123456789abcdef" * 4})
    printed = "".join(capsys.readouterr().out.split())

    assert "0123456789abcdef" * 4 in printed


def test_who_looks_is_shown_how_far_it_is_and_a_program_reads_nothing_of_it(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("asked about", 7) as advance:
        advance(3)
        advance(4)
    printed = capsys.readouterr()

    assert "asked about" in printed.err
    assert "7/7" in printed.err
    assert "" == printed.out


def test_there_is_no_bar_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with progress_bar("asked about", 7) as advance:
        advance(7)
    printed = capsys.readouterr()

    assert ("", "") == (printed.out, printed.err.strip())

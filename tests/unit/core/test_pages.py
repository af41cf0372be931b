"""Lists that come in pages are read to their end."""

from dataclasses import dataclass

import pytest

from core.rpc.pages import pages


@dataclass(frozen=True)
class Numbers:
    held: list[int]
    next: int = 0


def of(count: int, size: int) -> list[list[int]]:
    """The pages of `1..count`, from a server that gives `size` at a time."""

    def ask(after: int) -> Numbers:
        held = list(range(1, count + 1))[after : after + size]
        return Numbers(held, held[-1] if len(held) == size else 0)

    return [page.held for page in pages(ask)]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (0, 2, [[]]),
        (1, 2, [[1]]),
        # A full page may be the last: only the next one, which is empty, says so.
        (2, 2, [[1, 2], []]),
        (5, 2, [[1, 2], [3, 4], [5]]),
    ],
)
def test_every_entry_comes_once_and_in_order(
    count: int, size: int, expected: list[list[int]]
) -> None:
    assert expected == of(count, size)


def test_no_page_is_asked_for_that_nobody_reads() -> None:
    asked: list[int] = []

    def ask(after: int) -> Numbers:
        asked.append(after)
        return Numbers([after], after + 1)

    next(pages(ask))

    assert [0] == asked

"""Lists that come in pages: ask until there is no next one."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class Page(Protocol):
    """An answer that says where to go on; 0: it was the last one."""

    @property
    def next(self) -> int: ...


_Page = TypeVar("_Page", bound=Page)


def pages(ask: Callable[[int], _Page]) -> Iterator[_Page]:
    """Give every page; `ask` is told where to go on, first 0."""
    after = 0
    while True:
        page = ask(after)
        yield page
        if page.next == 0:
            return
        after = page.next

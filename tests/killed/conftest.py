"""One theatre for all tests, which begins with what they ask for."""

from collections.abc import Iterator

import pytest

from tests.killed.theatre import Theatre
from tests.postgresql import PostgreSQL


@pytest.fixture(scope="package")
def theatre(
    tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL
) -> Iterator[Theatre]:
    opened = Theatre(tmp_path_factory.mktemp("killed"), postgresql)
    yield opened
    opened.close()

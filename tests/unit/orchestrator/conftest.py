"""One federation is made a session, and copied for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.orchestrator.office import Office, copied_office, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_template(folder)
    return folder


@pytest.fixture
def office(template: Path, tmp_path: Path) -> Iterator[Office]:
    with copied_office(template, tmp_path / "office") as office:
        yield office

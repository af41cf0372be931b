"""Every test is steady: one thread, fixed seeds, no deadlines."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgresql import PostgreSQL

# A data owner's installation has no torch, and its tests run without it.
with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def postgresql() -> Iterator["PostgreSQL"]:
    """A real server, started once: it takes seconds."""
    # A data owner's installation has no driver for it either.
    from tests.postgresql import running_postgresql  # noqa: PLC0415

    with running_postgresql() as server:
        yield server

"""Kill the orchestrator before and after every commit and every effect: no difference.

The stages together take two owners' keys through every workflow and every step there
is; `test_job_steps` sees to that.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.federation import Policies
from tests.unit.orchestrator.crashing import (
    Fuse,
    copy_of,
    outcome,
    settle_despite_crashes,
)
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    Office,
    register_model,
)

ALDER, BIRCH = "alder.cells", "birch.cells"
OVERLAP_S = 600.0
WINDOW_S = 3600.0


def begin(office: Office) -> None:
    for owner in (ALDER_ID, BIRCH_ID):
        office.grant(owner)
        office.create(owner)


def confirm(*versions: tuple[str, int]) -> Callable[[Office], None]:
    def act(office: Office) -> None:
        for version in versions:
            office.confirm(*version)

    return act


def release(office: Office) -> None:
    office.move_champion(register_model(office, seed=1))


def release_afresh(office: Office) -> None:
    office.move_champion(register_model(office, seed=2, embedding="c"))


def hold(office: Office) -> None:
    """Birch's next version is confirmed, but its key is suspended: it waits."""
    office.suspend(BIRCH_ID)
    office.confirm(BIRCH, 3)


def restore(office: Office) -> None:
    office.restore(ALDER, 1)
    office.resume(ALDER_ID)


# Each begins when nothing is due any more.
STAGES: dict[str, Callable[[Office], object]] = {
    "create": begin,
    "activate": confirm((ALDER, 1), (BIRCH, 1)),
    "release": release,
    "rotate": lambda office: office.rotate(None, OVERLAP_S),
    "overlap": confirm((ALDER, 2), (BIRCH, 2)),
    "expire": lambda office: office.clock.pass_seconds(OVERLAP_S),
    "restore": restore,
    "end the window": lambda office: office.clock.pass_seconds(WINDOW_S),
    "rotate again": lambda office: office.rotate(BIRCH_ID, OVERLAP_S),
    "hold": hold,
    "resume": lambda office: office.resume(BIRCH_ID),
    "compromise": lambda office: office.compromise(ALDER_ID),
    "release afresh": release_afresh,
    "recover": confirm((ALDER, 3), (BIRCH, 4)),
    "end the window again": lambda office: office.clock.pass_seconds(WINDOW_S),
    "revoke": lambda office: office.revoke(BIRCH_ID),
    "destroy": lambda office: office.clock.pass_seconds(WINDOW_S),
}


def play(office: Office, stages: list[str]) -> None:
    office.policies = Policies(destroy_window_s=WINDOW_S)
    for name in stages:
        STAGES[name](office)
        office.settle()


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_between_any_two_steps_changes_nothing_in_the_end(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Records and effects included: everything happens once, and is recorded once."""
    names = list(STAGES)
    play(office, names[: names.index(stage)])
    STAGES[stage](office)
    with copy_of(office, tmp_path / "unharmed") as unharmed:
        unbroken = Fuse()
        settle_despite_crashes(unharmed, unbroken, monkeypatch)
        expected = outcome(unharmed)
    for point, label in enumerate(unbroken.labels):
        with copy_of(office, tmp_path / str(point)) as harmed:
            settle_despite_crashes(harmed, Fuse(blows_at=point), monkeypatch)

            assert outcome(harmed) == expected, f"crashed at point {point}, {label}"
    assert unbroken.passed >= 2, "nothing happened at this stage"

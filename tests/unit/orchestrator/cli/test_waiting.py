"""Who waits for keys to come to life waits for those present, and for nobody else."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from orchestrator.cli.waiting import JobsStuck, Watch, require_none_stuck, table
from protos.workflows_pb2 import Job

Steps = Sequence[tuple[str, str]]
# Waiting for a peer: the job looks again by itself.
READY, WAITING, AWAY = "ready", "waiting", "away"


@dataclass
class Script:
    """Jobs that take a step each time somebody looks, and a clock that ticks then."""

    steps: dict[int, Steps]
    looks: int = 0
    asked: list[list[int]] = field(default_factory=list)

    def jobs(self, ids: Sequence[int]) -> list[Job]:
        self.asked.append(list(ids))
        self.looks += 1
        return [self._job(each) for each in ids]

    def clock(self) -> float:
        return float(self.looks)

    def _job(self, job_id: int) -> Job:
        steps = self.steps[job_id]
        step, state = steps[min(self.looks, len(steps)) - 1]
        owner = f"spiffe://x/owner-{job_id}/data-owner"
        if state == AWAY:
            return Job(id=job_id, step=step, state=WAITING, owner=owner, next_at_ms=5)
        return Job(id=job_id, step=step, state=state, owner=owner)


def _ends(script: Script, patience_s: float = 3.0) -> dict[str, list[int]]:
    watch = Watch(script.jobs, patience_s, script.clock)
    *_, last = watch.follow(list(script.steps))
    return {stands: [job.id for job in jobs] for stands, jobs in last.items() if jobs}


LIVELY: Steps = [("draw", READY), ("confirm", WAITING), ("overlap", WAITING)]
ABSENT: Steps = [("draw", READY), ("confirm", WAITING)]


def test_it_ends_when_every_version_is_live() -> None:
    script = Script({1: LIVELY, 2: [("send", READY), ("send", "done")]})

    assert {"live": [1, 2]} == _ends(script)
    assert script.looks == 3


def test_an_absent_owner_is_waited_for_as_long_as_patience_lasts() -> None:
    script = Script({1: LIVELY, 2: ABSENT})

    assert {"live": [1], "waiting": [2]} == _ends(script)
    assert script.looks == 2 + 3  # it waits to be fetched from the second look on


def test_patience_begins_when_the_key_is_there_to_be_fetched() -> None:
    """A key holder that is slow to draw is not the owner's absence."""
    slow: Steps = [("draw", AWAY)] * 10 + [("confirm", WAITING), ("send", READY)]

    assert {"live": [1]} == _ends(Script({1: [*slow, ("overlap", WAITING)]}))


def test_a_key_that_is_held_is_not_waited_for_either() -> None:
    """Its rotation goes on when somebody resumes it."""
    held: Steps = [("confirm", WAITING), ("send", WAITING)]

    assert {"live": [1], "waiting": [2]} == _ends(Script({1: LIVELY, 2: held}))


def test_an_absent_owner_is_not_the_end_while_another_is_under_way() -> None:
    slow: Steps = [("prepare", READY)] * 9 + [("overlap", WAITING)]

    assert {"live": [2], "waiting": [1]} == _ends(Script({1: ABSENT, 2: slow}))


@pytest.mark.parametrize("state", ["needs_operator", "aborted"])
def test_what_cannot_go_on_by_itself_is_stuck(state: str) -> None:
    script = Script({1: [("send", state)], 2: LIVELY})

    assert {"stuck": [1], "live": [2]} == _ends(script)
    with pytest.raises(JobsStuck, match="job 1"):
        require_none_stuck({"stuck": [Job(id=1)]})


def test_many_are_counted_and_those_that_need_attention_come_first() -> None:
    jobs = [Job(id=n, owner=f"spiffe://x/owner-{n}/data-owner") for n in range(1000)]
    standing = {"live": jobs[1:], "stuck": jobs[:1], "waiting": [], "under way": []}
    console = Console(width=100, record=True, file=None)
    with console.capture() as captured:
        console.print(table(standing))
    lines = captured.get().splitlines()

    assert len(lines) == 21
    assert "owner-0" in lines[0]
    assert "keymixer jobs show 0" in lines[0]
    assert "999 live, 1 stuck" in lines[-1]

"""A whole run: a federation brought up, loaded for a while, stopped, looked into."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tests.soak.figure import write_figure
from tests.soak.memory import Memory
from tests.soak.program import EVERYTHING
from tests.soak.recorded import require_recorded, require_whole
from tests.soak.report import WATCHED, Found, report_of
from tests.soak.runner import Runner
from tests.soak.site import open_site
from tests.soak.traffic import Traffic
from tests.soak.warming import warm_up

_CALLERS: Final = "callers"


@dataclass(frozen=True, slots=True)
class Plan:
    """For how long, where, with which traffic, and where the picture is drawn.

    A rest is longer than the slowest turn, than a server waits before it closes a
    connection that nobody uses, and then before it gives memory back.
    """

    seconds: float
    folder: Path
    traffics: Sequence[Traffic] = EVERYTHING
    figure: Path | None = None
    rest_s: float = 150.0


def soak(plan: Plan, console: Console, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run it to its end, and return its report.

    Raises:
        Unaudited: an answer is not in the log exactly once, as it was given.
        AuditBroken: the log does not hold.
    """
    with open_site(plan.folder, console) as site:
        warm_up(site)
        pids = {role: site.pid(role) for role in WATCHED} | {_CALLERS: os.getpid()}
        memory = Memory(pids)
        began_s = time.monotonic()
        with memory.watched():
            runner = Runner(site, plan.traffics, plan.rest_s, memory.resting)
            seen = runner.run(plan.seconds, tell)
        seconds = time.monotonic() - began_s
        recorded = require_recorded(site, seen.receipts)
        site.stage.running.stop()
        log = require_whole(site)
    if plan.figure is not None:
        write_figure(memory.looks, seen.endings, plan.figure)
    return report_of(Found(seconds, seen, memory, recorded, log), plan.folder)

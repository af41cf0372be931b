"""What a run under load has shown, as figures, and whether all is as it must be."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import KeymixerError
from core.rpc.identity import INFERENCE_SERVER, ORCHESTRATOR
from core.wire import write_atomically
from orchestrator.audit.verify import LogReport
from orchestrator.bench import machine
from tests.soak.memory import Memory
from tests.soak.recorded import Recorded
from tests.soak.seen import Seen

# Who must not grow; the callers' own process is a witness, for it holds receipts.
WATCHED: Final = (INFERENCE_SERVER, ORCHESTRATOR)
# The share of requests for which there may be no room beside the floods.
_CROWDED: Final = 0.01


class SoakFailed(KeymixerError):
    """A server under load did what it must not do."""

    hint = "run it again with --keep FOLDER, and read the logs in it"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to report."""

    seconds: float
    seen: Seen
    memory: Memory
    recorded: Recorded
    log: LogReport


def report_of(found: Found, folder: Path) -> dict[str, Any]:
    """All figures, to be written as JSON."""
    ended, answered, surprises = found.seen.total()
    return {
        "seconds": round(found.seconds, 1),
        "requests": ended,
        "answered": answered,
        "records_of_answers": found.recorded.inferences,
        "records_not_taken": found.recorded.not_taken,
        "log_size": found.log.size,
        "surprises": surprises,
        "told": found.seen.told,
        "crowded": {
            name: round(count / found.seen.endings[name].total(), 4)
            for name, count in sorted(found.seen.crowded.items())
        },
        "endings": {
            name: dict(sorted(counts.items()))
            for name, counts in sorted(found.seen.endings.items())
        },
        "slowest_s": {
            name: round(seconds, 2)
            for name, seconds in sorted(found.seen.slowest_s.items())
        },
        "memory": found.memory.figures(),
        "machine": machine.described(folder),
    }


def require_sound(report: dict[str, Any], growth: float) -> None:
    """Raise `SoakFailed` if a turn ended otherwise than it may, or a server grew.

    The floods fill the queue to its bound: who comes then is refused too, and may ask
    again. That may be so for one request in a hundred.

    Args:
        report: As `report_of` gives it.
        growth: How much more memory is too much, as a part of what it held when warm.
    """
    if report["surprises"]:
        raise SoakFailed(f"{report['surprises']} surprises: {report['told']}")
    for name, share in report["crowded"].items():
        if share > _CROWDED:
            raise SoakFailed(f"{name}: no room for {share:.1%} of its requests")
    for name in WATCHED:
        ratio = report["memory"][name]["late_over_early"]
        if ratio > 1 + growth:
            raise SoakFailed(f"{name} grew to {ratio} of what it held when warm")


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Into a file, or to the standard output."""
    text = json.dumps(report, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        write_atomically(path, text.encode())

"""What must be true after every key was rotated once."""

from collections import Counter
from typing import Final, NamedTuple

from core.errors import KeymixerError
from core.rpc.identity import ORCHESTRATOR
from orchestrator.audit.verify import verify_log
from orchestrator.bench.usage import DATABASES
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import is_running
from orchestrator.simulation.setup import Stage


class BenchFailed(KeymixerError):
    """The measured federation did not do what it should have done."""

    hint = "measure again with --keep FOLDER, and read the logs in it"


class _Standing(NamedTuple):
    version: int
    state: str
    primary: bool


_AS_IT_SHOULD_BE: Final = (
    _Standing(1, "destroyed", False),
    _Standing(2, "active", True),
)


def check_keys(stage: Stage) -> None:
    """Every owner has one primary version, the second; the first is destroyed."""
    with stage.operator() as operator:
        versions = operator.key_versions()
        left = list(operator.jobs(open_only=True))
    found = Counter(_Standing(v.version, v.state, v.primary) for v in versions)
    if found != dict.fromkeys(_AS_IT_SHOULD_BE, len(stage.owners)):
        raise BenchFailed(f"the keys are not as they should be: {dict(found)}")
    if left:
        raise BenchFailed(f"{len(left)} jobs are left, such as {left[0].subject}")


def check_log(stage: Stage, narrator: Narrator) -> None:
    """The whole log is recomputed."""
    with stage.operator() as operator:
        public_key = operator.checkpoint().public_key
    database = stage.workspace.server_folder(ORCHESTRATOR) / DATABASES[ORCHESTRATOR]
    with narrator.bar("records") as bar:
        verify_log(database, public_key, on_progress=bar)


def check_stopped(stage: Stage) -> None:
    """No process of the run is left."""
    left = [process.name for process in stage.running.seen if is_running(process)]
    if left:
        raise BenchFailed(f"still running: {', '.join(left)}")

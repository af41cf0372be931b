"""Flower without a network: sites take their turns in this process.

Flower 1.41 runs apps over Ray or over its deployment runtime, and has no third way that
is public. This is one, for tests and for one machine: the same ServerApp logic, the
same ClientApp, Flower's own messages. Two things of Flower's that are not public are
touched, `TaskIdentity` and a message's id, so its version is pinned, and checked here.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from core.errors import ConfigurationError
from parties.model_provider.federated.client_app import app
from parties.model_provider.federated.ending import Finished
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.training import Tell, train_over_sites

FLOWER: Final = "1.41.0"
_RUN: Final = 1


class InProcessGrid(Grid):
    """A message is answered when it is pushed, in the order of the messages."""

    def __init__(self, client: ClientApp, sites: Mapping[int, Context]) -> None:
        self._client, self._sites = client, sites
        self._run = Run.create_empty(_RUN)
        self._numbers = count(1)
        self._answers: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Take a run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The one run there is."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message, in Flower's former way."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every site is always there."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each message answered; an error of a site is raised as it is."""
        return [self._answer(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give each answer once."""
        return [self._answers.pop(number) for number in message_ids]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; nothing here takes longer than the work itself."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> str:
        number = str(next(self._numbers))
        message.metadata.__dict__["_message_id"] = number
        site = self._sites[message.metadata.dst_node_id]
        self._answers[number] = self._client(message, site)
        return number


def train_in_process(
    plan: FederatedPlan,
    folder: Path,
    tell: Tell = lambda _event, _fields: None,
    *,
    restart: bool = False,
) -> Finished:
    """Train over sites that are all in this process; see `train_over_sites`."""
    with in_process(plan) as grid, _quiet():
        return train_over_sites(grid, plan, folder, tell, restart=restart)


@contextmanager
def in_process(plan: FederatedPlan, client: ClientApp = app) -> Iterator[InProcessGrid]:
    """A grid whose sites each have their part of the plan's data.

    Raises:
        ConfigurationError: another version of Flower is installed.
    """
    if (found := version("flwr")) != FLOWER:
        raise ConfigurationError(f"flwr: expected {FLOWER}, got {found}")
    with _identity():
        yield InProcessGrid(client, _sites(plan))


def _sites(plan: FederatedPlan) -> dict[int, Context]:
    # Flower's simulation tells its nodes the same two numbers.
    nodes: dict[int, dict[str, Any]] = {
        number + 2: {"partition-id": number, "num-partitions": plan.sites}
        for number in range(plan.sites)
    }
    config = plan.to_config()
    return {
        node: Context(_RUN, node, told, RecordDict(), config)
        for node, told in nodes.items()
    }


@contextmanager
def _identity() -> Iterator[None]:
    """Flower asks who makes a message; in its own runtimes a process knows."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN, 1
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower tells of every round on the terminal; so do we."""
    logger = getLogger("flwr")
    before = logger.level
    logger.setLevel(WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)

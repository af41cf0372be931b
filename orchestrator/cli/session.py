"""One command's view of a federation: its run, and a connection as one operator."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.console import print_json, say
from core.errors import NotFound

if TYPE_CHECKING:
    from orchestrator.federation import Policies
    from orchestrator.operator import Operator
    from orchestrator.simulation.workspace import Workspace
    from protos.workflows_pb2 import Job

T = TypeVar("T")


@dataclass(frozen=True)
class KeyName:
    """One owner's key for one model, as the registry names it."""

    organisation: str
    # The owner's SPIFFE ID.
    owner: str
    model: str

    @property
    def key_id(self) -> str:
        """The key's id: owner and model."""
        return f"{self.organisation}.{self.model}"

    def is_of(self, job: "Job") -> bool:
        """Whether a job works on this key, or on all keys of its model."""
        return job.key_id == self.key_id or job.subject == f"recover:{self.model}"


@dataclass(frozen=True)
class Session:
    """A connection as one operator, and the run it belongs to."""

    operator: "Operator"
    workspace: "Workspace"
    # The operator's organisation.
    organisation: str

    @property
    def policies(self) -> "Policies":
        """What the federation's file says."""
        return self.workspace.federation.policies

    def model(self, named: str) -> str:
        """The model that is meant; if none is named, the federation's first.

        Raises:
            NotFound: the federation has no such model.
        """
        models = [model.name for model in self.workspace.federation.models]
        return _one_of(models, named or models[0], "model")

    def key(self, named: str, model: str) -> KeyName:
        """The key that is meant by an owner's organisation, or by the key's own id.

        Raises:
            NotFound: there is no such owner or model.
        """
        from core.rpc.identity import DATA_OWNER

        organisation, _, of_id = named.partition(".")
        owners = self.workspace.federation.organisations_with(DATA_OWNER)
        _one_of(owners, organisation, "data owner")
        owner = str(self.workspace.owner(organisation))
        return KeyName(organisation, owner, self.model(model or of_id))

    def another_operator(self) -> str:
        """An operator who may approve what this one asked for."""
        from core.rpc.identity import OPERATOR

        operators = self.workspace.federation.organisations_with(OPERATOR)
        able = self.policies.approvers or operators
        return next((one for one in able if one != self.organisation), "ORG")


@contextmanager
def connected(run: Path, as_: str) -> Iterator[Session]:
    """Connect to the orchestrator of a run as one of its operators.

    Raises:
        NotFound: `as_` is no operator of the federation.
    """
    from orchestrator.operator import operator
    from orchestrator.simulation.workspace import open_workspace

    workspace = open_workspace(run)
    folder = workspace.operator_folder(as_)
    with operator(folder) as calls:
        yield Session(calls, workspace, folder.name)


def ask(run: Path, as_: str, question: "Callable[[Operator], T]") -> T:
    """Ask the orchestrator of a run one thing."""
    with connected(run, as_) as session:
        return question(session.operator)


def tell(content: Mapping[str, Any], told: str, *, as_json: bool) -> None:
    """Say what was done: to a person in words, to a program as JSON."""
    if as_json:
        print_json(dict(content))
    else:
        say(told)


def tell_outcome(
    session: Session,
    content: Mapping[str, Any],
    told: str,
    *,
    as_json: bool,
    meanwhile: str = "Nothing was done yet",
) -> None:
    """Say what was done, or that it was not, because another operator must approve.

    `content` holds `approval_id`; 0 says that it was done.
    """
    if approval := content["approval_id"]:
        told = (
            f"{meanwhile}: approval {approval} waits for another operator: "
            f"keymixer approvals approve {approval} --as {session.another_operator()}"
        )
    tell(content, told, as_json=as_json)


def _one_of(known: list[str], named: str, what: str) -> str:
    if named not in known:
        raise NotFound(f"{named} is no {what} here; there are {', '.join(known)}")
    return named

"""An orchestrator that answers what a test says, over real mutual TLS, and remembers.

The command line is run against it as a person types it: arguments in, text and exit
code out.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import yaml
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from core.rpc.identity import OPERATOR, ORCHESTRATOR, load_identity
from core.rpc.policy import current_caller
from core.rpc.server import serve
from orchestrator.cli.__main__ import main
from orchestrator.simulation.workspace import Workspace, create_workspace
from protos import (
    audit_pb2,
    audit_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

SCENARIO = Path("deploy/scenarios/digits.yaml")
FILES = (registry_pb2, audit_pb2, workflows_pb2)
ANSWERS = {
    method.name: GetMessageClass(method.output_type)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
POLICY = {
    f"/{service.full_name}/{method.name}": frozenset({OPERATOR})
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

Answer = Callable[[Any], Message]


@dataclass(frozen=True)
class Asked:
    """One call: which operator, what, with which arguments."""

    organisation: str
    method: str
    request: Any


@dataclass
class Desk:
    """Answers every call of the three services: as told, or with an empty message."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def says(self, answer: Message) -> None:
        """Answer with this message whatever call it belongs to."""
        name = type(answer).__name__.removesuffix("Response")
        self.answers[name] = lambda _: answer

    def clear(self) -> None:
        self.answers.clear()
        self.asked.clear()

    def only(self, method: str) -> Asked:
        """The one call of a method."""
        (found,) = [each for each in self.asked if each.method == method]
        return found

    def __getattr__(self, method: str) -> Any:
        """The servicer's method of this name."""
        if method not in ANSWERS:
            raise AttributeError(method)

        def answer(request: Any, _context: grpc.ServicerContext) -> Message:
            self.asked.append(Asked(current_caller().organisation, method, request))
            told = self.answers.get(method, lambda _: ANSWERS[method]())
            return told(request)

        return answer


@contextmanager
def open_desk(folder: Path) -> Iterator[tuple[Desk, Workspace]]:
    """A run with two operators, whose orchestrator is a desk."""
    workspace = create_workspace(folder / "runs", two_operators(folder))
    desk = Desk()

    def register(server: grpc.Server) -> None:
        servicer = cast("Any", desk)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
        workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(servicer, server)

    identity = load_identity(workspace.server_folder(ORCHESTRATOR))
    with serve(identity, POLICY, register, [], workspace.address(ORCHESTRATOR)):
        yield desk, workspace


def two_operators(folder: Path, **policies: object) -> Path:
    """The scenario with another operator, whose organisation is `auditors`."""
    content = yaml.safe_load(SCENARIO.read_text())
    content["organisations"].append({"name": "auditors", "roles": ["operator"]})
    content["policies"] |= policies
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class Terminal:
    """Types `keymixer ...` for one run; what was printed is read afterwards."""

    run: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    said: str = ""

    def text(self, *arguments: str, code: int = 0) -> str:
        """What it prints on stdout; `said` is what it prints on stderr."""
        self.monkeypatch.setenv("COLUMNS", "200")
        self.monkeypatch.setenv("KEYMIXER_RUN", str(self.run))
        self.monkeypatch.setattr(sys, "argv", ["keymixer", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        self.said = printed.err
        assert (ended.value.code or 0) == code, printed.out + printed.err
        return printed.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.text(*arguments, "--json", code=code))

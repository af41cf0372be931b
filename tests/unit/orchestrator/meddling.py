"""Peers during whose calls something else happens, or that fail as they are told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.workflows.peers import (
    DrawnKey,
    IssueId,
    KeyToDraw,
    PreparedIssue,
    SealedExport,
    SignedReceipt,
)
from tests.unit.orchestrator.office import Office

Answer = TypeVar("Answer")
CALLS = ("draw", "prepare", "send", "delete", "destroy")


@dataclass
class Meddler:
    """Both peers; once, after the call named, `happens` is called."""

    office: Office
    during: str
    happens: Callable[[], object]
    done: list[str] = field(default_factory=list)

    def draw(self, key: KeyToDraw, idempotency_key: str) -> DrawnKey:
        holder = self.office.key_holder
        return self._called("draw", lambda: holder.draw(key, idempotency_key))

    def prepare(self, issue: IssueId, idempotency_key: str) -> PreparedIssue:
        holder = self.office.key_holder
        return self._called("prepare", lambda: holder.prepare(issue, idempotency_key))

    def send(self, issue: IssueId, idempotency_key: str) -> None:
        holder = self.office.key_holder
        self._called("send", lambda: holder.send(issue, idempotency_key))

    def destroy(self, key_id: str, version: int, idempotency_key: str) -> SignedReceipt:
        holder = self.office.key_holder
        return self._called(
            "destroy", lambda: holder.destroy(key_id, version, idempotency_key)
        )

    def export(self, key_id: str, version: int) -> SealedExport:
        return self.office.key_holder.export(key_id, version)

    def delete(self, issue: IssueId, idempotency_key: str) -> None:
        server = self.office.server
        self._called("delete", lambda: server.delete(issue, idempotency_key))

    def _called(self, name: str, call: Callable[[], Answer]) -> Answer:
        answer = call()
        if name == self.during and not self.done:
            self.done.append(name)
            self.happens()
        return answer

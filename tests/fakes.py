"""Stand-ins for the parties an orchestrator drives: they remember what they were asked.

They keep the promises of the ports: every call may be repeated, and a key holder that
is asked again gives the same answer again.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NoReturn, cast

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import Conflict, NotFound, PeerUnavailable
from core.statements import ISSUE, IssueStatement, sign
from orchestrator.workflows.peers import DrawnKey, IssueId, KeyToDraw, PreparedIssue


@dataclass
class FakeClock:
    """Milliseconds that pass only when a test says so."""

    now_ms: int = 1_750_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def pass_seconds(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


@dataclass
class FakeInferenceServer:
    """Holds the names of issued models; `away` makes it answer nobody."""

    stored: set[IssueId] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    away: bool = False

    def store(self, issue: IssueId) -> None:
        self._answer("store")
        self.stored.add(issue)

    def delete(self, issue: IssueId) -> None:
        self._answer("delete")
        self.stored.discard(issue)

    def _answer(self, call: str) -> None:
        self.calls[call] += 1
        if self.away:
            raise PeerUnavailable("the inference server is away")


@dataclass
class FakeKeyHolder:
    """Draws counters instead of keys and sends names instead of tensors.

    It signs real statements, so that whoever checks them has something to check.
    """

    server: FakeInferenceServer
    signing_key: Ed25519PrivateKey = field(
        default_factory=lambda: Ed25519PrivateKey.from_private_bytes(bytes(32))
    )
    keys: dict[tuple[str, int], KeyToDraw] = field(default_factory=dict)
    destroyed: set[tuple[str, int]] = field(default_factory=set)
    embeddings: set[tuple[str, int]] | None = None
    calls: Counter[str] = field(default_factory=Counter)
    away: bool = False

    @property
    def public_key(self) -> bytes:
        return self.signing_key.public_key().public_bytes_raw()

    def draw(self, key: KeyToDraw) -> DrawnKey:
        self._answer("draw")
        if self.keys.setdefault((key.key_id, key.version), key) != key:
            raise Conflict("drawn before with other parameters")
        return DrawnKey("fake-v1", _commitment(key.key_id, key.version))

    def prepare(self, issue: IssueId) -> PreparedIssue:
        self._answer("prepare")
        statement = self._statement(issue).to_bytes()
        return PreparedIssue(statement, sign(self.signing_key, ISSUE, statement))

    def send(self, issue: IssueId) -> None:
        self._answer("send")
        self._key(issue)
        self.server.store(issue)

    def destroy(self, key_id: str, version: int) -> None:
        self._answer("destroy")
        self.destroyed.add((key_id, version))

    def _answer(self, call: str) -> None:
        self.calls[call] += 1
        if self.away:
            raise PeerUnavailable("the key holder is away")

    def _key(self, issue: IssueId) -> KeyToDraw:
        name = (issue.key_id, issue.key_version)
        if name in self.destroyed or name not in self.keys:
            raise NotFound("no such key version")
        return self.keys[name]

    def _statement(self, issue: IssueId) -> IssueStatement:
        key = self._key(issue)
        model = (issue.model, issue.model_version)
        if self.embeddings is not None and model not in self.embeddings:
            raise NotFound("no such embedding")
        return IssueStatement(
            key_id=issue.key_id,
            key_version=issue.key_version,
            owner=key.owner,
            model=issue.model,
            model_version=issue.model_version,
            digest=hashlib.sha256(repr(issue).encode()).hexdigest(),
            patch_size=key.patch_size,
            channels=key.channels,
            hidden=8,
        )


def _commitment(key_id: str, version: int) -> bytes:
    return hashlib.sha256(f"{key_id}/{version}".encode()).digest()


class Aborted(Exception):
    """A call was ended with a status; `args` are the status and the details."""


class FakeContext:
    """What of gRPC's context our services use."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise Aborted(code, details)


def fake_context() -> grpc.ServicerContext:
    """A context for a servicer that is called without gRPC."""
    return cast("grpc.ServicerContext", FakeContext())

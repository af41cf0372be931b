"""Stand-ins for the parties an orchestrator drives: they remember what they were asked.

They keep the promises of the ports: every call may be repeated, a key holder that is
asked again gives the same answer again, and what is done under one idempotency key is
done once: a key that is used for something else is a bug, and says so.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NoReturn, cast

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import Conflict, NotFound, PeerUnavailable
from core.statements import (
    DESTRUCTION,
    ISSUE,
    DestructionReceipt,
    IssueStatement,
    sign,
)
from orchestrator.workflows.peers import (
    DrawnKey,
    IssueId,
    KeyToDraw,
    PreparedIssue,
    SealedExport,
    SignedReceipt,
)


@dataclass
class FakeClock:
    """Milliseconds that pass only when a test says so."""

    now_ms: int = 1_750_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def pass_seconds(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


@dataclass
class Effects:
    """What was done, by idempotency key: the same again is not done again."""

    done: dict[str, object] = field(default_factory=dict)

    def once(self, idempotency_key: str, what: object) -> None:
        if self.done.setdefault(idempotency_key, what) != what:
            raise Conflict(f"{idempotency_key} was used for something else")


@dataclass
class FakeInferenceServer:
    """Holds the names of issued models; `away` makes it answer nobody."""

    stored: set[IssueId] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    effects: Effects = field(default_factory=Effects)
    away: bool = False

    def store(self, issue: IssueId, idempotency_key: str) -> None:
        self._answer("store")
        self.effects.once(idempotency_key, ("store", issue))
        self.stored.add(issue)

    def delete(self, issue: IssueId, idempotency_key: str) -> None:
        self._answer("delete")
        self.effects.once(idempotency_key, ("delete", issue))
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
    effects: Effects = field(default_factory=Effects)
    away: bool = False

    @property
    def public_key(self) -> bytes:
        return self.signing_key.public_key().public_bytes_raw()

    def draw(self, key: KeyToDraw, idempotency_key: str) -> DrawnKey:
        self._answer("draw")
        self.effects.once(idempotency_key, ("draw", key))
        if self.keys.setdefault((key.key_id, key.version), key) != key:
            raise Conflict("drawn before with other parameters")
        return DrawnKey("fake-v1", _commitment(key.key_id, key.version))

    def prepare(self, issue: IssueId, idempotency_key: str) -> PreparedIssue:
        self._answer("prepare")
        self.effects.once(idempotency_key, ("prepare", issue))
        statement = self._statement(issue).to_bytes()
        return PreparedIssue(statement, sign(self.signing_key, ISSUE, statement))

    def send(self, issue: IssueId, idempotency_key: str) -> None:
        self._answer("send")
        self._key(issue)
        self.effects.once(idempotency_key, ("send", issue))
        self.server.store(issue, idempotency_key)

    def destroy(self, key_id: str, version: int, idempotency_key: str) -> SignedReceipt:
        self._answer("destroy")
        self.effects.once(idempotency_key, ("destroy", key_id, version))
        self.destroyed.add((key_id, version))
        if (key_id, version) not in self.keys:
            return SignedReceipt(b"", b"")
        receipt = _receipt(key_id, version).to_bytes()
        return SignedReceipt(receipt, sign(self.signing_key, DESTRUCTION, receipt))

    def export(self, key_id: str, version: int) -> SealedExport:
        self._answer("export")
        return SealedExport(f"{key_id}/{version}".encode(), bytes(64), 1)

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


def _receipt(key_id: str, version: int) -> DestructionReceipt:
    return DestructionReceipt(
        key_id=key_id,
        key_version=version,
        commitment=_commitment(key_id, version).hex(),
        destroyed_at_ms=1,
        covers="the seed in the key holder's store",
        excludes="copies that the owner keeps",
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

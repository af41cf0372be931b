"""An operator's view of a running federation: ask the orchestrator, over mutual TLS."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.rpc.channel import open_channel
from core.rpc.errors import remote_errors
from core.rpc.identity import load_identity
from core.rpc.settings import Peer, read_settings
from protos import audit_pb2, registry_pb2, workflows_pb2
from protos.audit_pb2_grpc import AuditServiceStub
from protos.registry_pb2_grpc import RegistryServiceStub
from protos.workflows_pb2_grpc import WorkflowServiceStub


@dataclass(frozen=True)
class Operator:
    """The calls an operator may make; each raises a typed error if it is refused."""

    registry: RegistryServiceStub
    workflows: WorkflowServiceStub
    audit: AuditServiceStub

    def parties(self) -> list[registry_pb2.Party]:
        """All parties."""
        with remote_errors("orchestrator"):
            answer = self.registry.ListParties(registry_pb2.ListPartiesRequest())
        return list(answer.parties)

    def models(self) -> list[registry_pb2.ModelVersion]:
        """All model versions."""
        with remote_errors("orchestrator"):
            answer = self.registry.ListModelVersions(
                registry_pb2.ListModelVersionsRequest()
            )
        return list(answer.versions)

    def key_versions(self) -> list[registry_pb2.KeyVersion]:
        """All key versions."""
        with remote_errors("orchestrator"):
            answer = self.registry.ListKeyVersions(
                registry_pb2.ListKeyVersionsRequest()
            )
        return list(answer.versions)

    def issued(self) -> list[registry_pb2.IssuedModel]:
        """All issued models."""
        with remote_errors("orchestrator"):
            answer = self.registry.ListIssuedModels(
                registry_pb2.ListIssuedModelsRequest()
            )
        return list(answer.issued)

    def grant(self, owner: str, model: str) -> None:
        """Allow an owner (a SPIFFE ID) to use a model."""
        with remote_errors("orchestrator"):
            self.workflows.GrantModel(
                workflows_pb2.GrantModelRequest(owner=owner, model=model)
            )

    def create_key(self, owner: str, model: str) -> tuple[str, int]:
        """Have an owner's first key drawn; returns its id and version."""
        with remote_errors("orchestrator"):
            answer = self.workflows.CreateKey(
                workflows_pb2.CreateKeyRequest(owner=owner, model=model)
            )
        return answer.key_id, answer.version

    def rotate_key(self, owner: str, model: str, overlap_s: float) -> tuple[str, int]:
        """Have an owner's next key version drawn; returns its id and version."""
        with remote_errors("orchestrator"):
            answer = self.workflows.RotateKey(
                workflows_pb2.RotateKeyRequest(
                    owner=owner, model=model, overlap_s=overlap_s
                )
            )
        return answer.key_id, answer.version

    def revoke_key(self, owner: str, model: str, reason: str) -> list[int]:
        """Revoke every version of an owner's key; returns the versions."""
        with remote_errors("orchestrator"):
            answer = self.workflows.RevokeKey(
                workflows_pb2.RevokeKeyRequest(owner=owner, model=model, reason=reason)
            )
        return list(answer.versions)

    def checkpoint(self) -> audit_pb2.GetCheckpointResponse:
        """The newest signed checkpoint and the log's public key."""
        with remote_errors("orchestrator"):
            return self.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())

    def entries(self, start: int = 0, kind: str = "") -> Iterator[audit_pb2.AuditEntry]:
        """The log's records from `start` on, page by page."""
        while True:
            with remote_errors("orchestrator"):
                page = self.audit.ListEntries(
                    audit_pb2.ListEntriesRequest(start=start, kind=kind)
                )
            yield from page.entries
            if not page.next_start:
                return
            start = page.next_start


@contextlib.contextmanager
def operator(folder: Path) -> Iterator[Operator]:
    """Connect with the operator's identity and settings in `folder`."""
    peer = Peer.read(read_settings(folder), "orchestrator")
    with open_channel(peer.address, load_identity(folder), peer.spiffe_id) as channel:
        yield Operator(
            RegistryServiceStub(channel),
            WorkflowServiceStub(channel),
            AuditServiceStub(channel),
        )

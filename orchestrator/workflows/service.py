"""The workflows' gRPC service: decode, call, encode."""

import grpc

from core.rpc.errors import rpc_errors
from core.rpc.policy import current_caller
from orchestrator.registry.store import Registry
from orchestrator.workflows import keys
from protos import workflows_pb2 as pb
from protos import workflows_pb2_grpc as rpc


class WorkflowService(rpc.WorkflowServiceServicer):
    """Each call alters rows and returns; the reconciler does what follows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def GrantModel(
        self, request: pb.GrantModelRequest, context: grpc.ServicerContext
    ) -> pb.GrantModelResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                keys.grant(change, request.owner, request.model)
            return pb.GrantModelResponse()

    def CreateKey(
        self, request: pb.CreateKeyRequest, context: grpc.ServicerContext
    ) -> pb.CreateKeyResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                made = keys.create(change, request.owner, request.model)
            return pb.CreateKeyResponse(key_id=made.key.key_id, version=made.version)

    def RotateKey(
        self, request: pb.RotateKeyRequest, context: grpc.ServicerContext
    ) -> pb.RotateKeyResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                made = keys.rotate(
                    change, request.owner, request.model, request.overlap_s
                )
            return pb.RotateKeyResponse(key_id=made.key.key_id, version=made.version)

    def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: grpc.ServicerContext
    ) -> pb.RevokeKeyResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                key_id, versions = keys.revoke(
                    change, request.owner, request.model, request.reason
                )
            return pb.RevokeKeyResponse(key_id=key_id, versions=versions)

"""Who may call the inference server."""

from types import MappingProxyType
from typing import Final

from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
)
from core.rpc.policy import ANYONE, Policy

POLICY: Final[Policy] = MappingProxyType(
    {
        "/inference.GRPCInferenceService/ServerLive": ANYONE,
        "/inference.GRPCInferenceService/ServerReady": ANYONE,
        "/inference.GRPCInferenceService/ModelReady": ANYONE,
        "/inference.GRPCInferenceService/ServerMetadata": ANYONE,
        "/inference.GRPCInferenceService/ModelMetadata": ANYONE,
        "/inference.GRPCInferenceService/ModelInfer": frozenset({DATA_OWNER}),
        "/keymixer.v1.BulkInferenceService/InferStream": frozenset({DATA_OWNER}),
        "/keymixer.v1.ModelStoreService/StoreBackbone": frozenset({MODEL_PROVIDER}),
        "/keymixer.v1.ModelStoreService/StoreIssuedModel": frozenset({KEY_HOLDER}),
        "/keymixer.v1.ModelStoreService/DeleteIssuedModel": frozenset({ORCHESTRATOR}),
        "/keymixer.v1.ModelStoreService/FetchBackbone": frozenset({INFERENCE_SERVER}),
    }
)

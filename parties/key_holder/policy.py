"""Who may call the key holder."""

from types import MappingProxyType
from typing import Final

from core.rpc.identity import DATA_OWNER, INFERENCE_SERVER, MODEL_PROVIDER, ORCHESTRATOR
from core.rpc.policy import Policy

_ORCHESTRATOR: Final = frozenset({ORCHESTRATOR})
_OWNER: Final = frozenset({DATA_OWNER})

POLICY: Final[Policy] = MappingProxyType(
    {
        "/keymixer.v1.KeyHolderService/StoreEmbedding": frozenset({MODEL_PROVIDER}),
        "/keymixer.v1.KeyHolderService/CreateKeyVersion": _ORCHESTRATOR,
        "/keymixer.v1.KeyHolderService/FetchSealedKey": _OWNER,
        "/keymixer.v1.KeyHolderService/ProvePossession": _OWNER,
        "/keymixer.v1.KeyHolderService/PrepareIssuedModel": _ORCHESTRATOR,
        "/keymixer.v1.KeyHolderService/SendIssuedModel": _ORCHESTRATOR,
        "/keymixer.v1.KeyHolderService/FetchIssuedModel": frozenset({INFERENCE_SERVER}),
        "/keymixer.v1.KeyHolderService/DestroyKeyVersion": _ORCHESTRATOR,
        "/keymixer.v1.KeyHolderService/ExportKeyVersion": _ORCHESTRATOR,
    }
)

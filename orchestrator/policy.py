"""Who may call the orchestrator: its registry, its log, its workflows."""

from types import MappingProxyType
from typing import Final

from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
)
from core.rpc.policy import ANYONE, Policy

_OPERATOR: Final = frozenset({OPERATOR})
# Those that sign something, or have keys sealed to them.
_KEYED: Final = frozenset({KEY_HOLDER, INFERENCE_SERVER, MODEL_PROVIDER, DATA_OWNER})
# Those that key versions and issued models concern; each sees its own.
_KEY_READERS: Final = frozenset({DATA_OWNER, KEY_HOLDER, INFERENCE_SERVER, OPERATOR})
# Whoever sets something in motion is an operator; here the whole list of what can be.
_OPERATORS_METHODS: Final = (
    *("GrantModel", "CreateKey", "RotateKeys", "RevokeKey", "SuspendKey", "ResumeKey"),
    *(
        "SetBudget",
        "ReportCompromise",
        "RestoreKey",
        "DestroyKey",
        "ExportKey",
        "RevokeParty",
    ),
    *("ListJobs", "RetryJob", "AbortJob", "ListApprovals", "Approve", "Reject"),
)

POLICY: Final[Policy] = MappingProxyType(
    {
        "/keymixer.v1.RegistryService/RegisterPublicKeys": _KEYED,
        "/keymixer.v1.RegistryService/ListParties": ANYONE,
        "/keymixer.v1.RegistryService/RegisterModelVersion": frozenset(
            {MODEL_PROVIDER}
        ),
        "/keymixer.v1.RegistryService/ListModelVersions": ANYONE,
        "/keymixer.v1.RegistryService/SetAlias": frozenset({MODEL_PROVIDER, OPERATOR}),
        "/keymixer.v1.RegistryService/ListKeyVersions": _KEY_READERS,
        "/keymixer.v1.RegistryService/ConfirmKeyVersion": frozenset({KEY_HOLDER}),
        "/keymixer.v1.RegistryService/ListIssuedModels": _KEY_READERS,
        "/keymixer.v1.RegistryService/ListGrants": frozenset({DATA_OWNER, OPERATOR}),
        "/keymixer.v1.RegistryService/ListStanding": frozenset(
            {KEY_HOLDER, INFERENCE_SERVER}
        ),
        "/keymixer.v1.AuditService/RecordInferences": frozenset({INFERENCE_SERVER}),
        "/keymixer.v1.AuditService/RecordEvents": frozenset(
            {KEY_HOLDER, INFERENCE_SERVER}
        ),
        "/keymixer.v1.AuditService/ListEntries": ANYONE,
        "/keymixer.v1.AuditService/EraseNote": _OPERATOR,
        "/keymixer.v1.AuditService/GetCheckpoint": ANYONE,
        "/keymixer.v1.AuditService/GetInclusionProof": ANYONE,
        "/keymixer.v1.AuditService/GetConsistencyProof": ANYONE,
        "/keymixer.v1.AuditService/SubmitCosignature": frozenset({DATA_OWNER}),
        "/keymixer.v1.AuditService/ListCosignatures": _OPERATOR,
        **{
            f"/keymixer.v1.WorkflowService/{method}": _OPERATOR
            for method in _OPERATORS_METHODS
        },
    }
)

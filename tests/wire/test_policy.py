"""Every rpc is in the policy table of the one party that serves it."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import protos
from core.rpc import identity
from core.rpc.policy import BASE, Policy
from orchestrator.policy import POLICY as ORCHESTRATOR
from parties.inference_server.policy import POLICY as INFERENCE_SERVER
from parties.key_holder.policy import POLICY as KEY_HOLDER

TABLES: Mapping[str, Policy] = {
    "orchestrator": ORCHESTRATOR,
    "key holder": KEY_HOLDER,
    "inference server": INFERENCE_SERVER,
}
SERVED_BY = {
    "keymixer.v1.RegistryService": "orchestrator",
    "keymixer.v1.AuditService": "orchestrator",
    "keymixer.v1.WorkflowService": "orchestrator",
    "keymixer.v1.KeyHolderService": "key holder",
    "keymixer.v1.ModelStoreService": "inference server",
    "keymixer.v1.BulkInferenceService": "inference server",
    "inference.GRPCInferenceService": "inference server",
}


def services() -> list[ServiceDescriptor]:
    """All services under `protos`, found on disk: a new file cannot be forgotten."""
    folder = Path(protos.__path__[0])
    modules = [import_module(f"protos.{path.stem}") for path in folder.glob("*_pb2.py")]
    return [
        service
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    ]


def methods(found: Sequence[Any]) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for service in found
        for method in service.methods
    }


def complete(policy: Policy, found: Sequence[Any]) -> None:
    """Raise unless the table names exactly the methods of these services."""
    assert methods(found) == set(policy)


@pytest.mark.parametrize("party", TABLES)
def test_a_table_names_exactly_what_its_party_serves(party: str) -> None:
    served = [s for s in services() if SERVED_BY[s.full_name] == party]

    assert served
    complete(TABLES[party], served)


def test_every_service_is_served_by_somebody() -> None:
    assert {service.full_name for service in services()} == set(SERVED_BY)


def test_no_rpc_is_in_two_tables() -> None:
    listed = [method for table in (*TABLES.values(), BASE) for method in table]

    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("party", TABLES)
def test_tables_know_only_real_roles_and_close_nothing_to_all(party: str) -> None:
    for roles in TABLES[party].values():
        assert roles
        assert roles <= identity.ROLES


@pytest.mark.parametrize("party", TABLES)
def test_tables_cannot_be_changed(party: str) -> None:
    assert isinstance(TABLES[party], MappingProxyType)


# What the design promises ("Who may see what"), against what the tables say.
@pytest.mark.parametrize(
    ("party", "method", "roles"),
    [
        # A seed leaves the key holder only to its owner.
        ("key holder", "FetchSealedKey", {"data-owner"}),
        ("key holder", "ProvePossession", {"data-owner"}),
        # A plain embedding comes from a provider, and goes nowhere.
        ("key holder", "StoreEmbedding", {"model-provider"}),
        ("key holder", "DestroyKeyVersion", {"orchestrator"}),
        # An issued embedding reaches the server from the key holder alone.
        ("inference server", "StoreIssuedModel", {"key-holder"}),
        ("inference server", "ModelInfer", {"data-owner"}),
        ("inference server", "InferStream", {"data-owner"}),
        ("orchestrator", "RecordInferences", {"inference-server"}),
        ("orchestrator", "ConfirmKeyVersion", {"key-holder"}),
        ("orchestrator", "RegisterModelVersion", {"model-provider"}),
        ("orchestrator", "RevokeKey", {"operator"}),
        ("orchestrator", "CreateKey", {"operator"}),
    ],
)
def test_what_is_private_is_open_to_one_role(
    party: str, method: str, roles: set[str]
) -> None:
    (allowed,) = [
        found
        for name, found in TABLES[party].items()
        if name.rpartition("/")[2] == method
    ]

    assert roles == allowed

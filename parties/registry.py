"""The orchestrator's registry as a party sees it: a port, and its gRPC client."""

from typing import Final, Protocol

import grpc

from core.errors import KeyRefusedError, NotAllowedError, NotFound, SignatureError
from core.manifest import Manifest
from core.rpc.errors import remote_errors
from core.rpc.pages import pages
from core.statements import MANIFEST, verify
from protos import registry_pb2 as pb
from protos import registry_pb2_grpc as rpc

# What may be asked again when the orchestrator did not answer.
IDEMPOTENT: Final = frozenset(
    f"/keymixer.v1.RegistryService/{method}"
    for method in (
        "RegisterPublicKeys",
        "ListParties",
        "ListModelVersions",
        "ListKeyVersions",
        "ListIssuedModels",
        "ConfirmKeyVersion",
    )
)

# The registry's largest answer: a first look at several hundred thousand keys.
LARGEST_ANSWER: Final = 64 << 20

# The states of key versions, and of issued models, that may be served.
_IN_USE: Final = frozenset({"active", "retiring"})
SERVED: Final = frozenset({"live", "retiring"})

# A look that hangs must not take the place of those that could follow it. The first one
# may bring many thousand keys, and has the time of any other call.
_LOOK_S: Final = 1.0


class Registry(Protocol):
    """What the key holder and the inference server ask of the registry."""

    def register_public_keys(self, signing_key: bytes, sealing_key: bytes) -> None:
        """Register the caller's own public keys; the same ones twice are fine."""
        ...

    def party(self, spiffe_id: str) -> pb.Party:
        """The party of that name. Raises `NotFound`."""
        ...

    def model_version(self, model: str, version: int) -> pb.ModelVersion:
        """One registered model version. Raises `NotFound`."""
        ...

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[pb.IssuedModel]:
        """What is issued under one key version, or all that the caller may see."""
        ...

    def key_version(self, key_id: str, version: int) -> pb.KeyVersion:
        """One key version, with its state as it is now. Raises `NotFound`."""
        ...

    def confirm_key_version(self, key_id: str, version: int) -> None:
        """Say that the owner has proved possession."""
        ...


class GrpcRegistry:
    """The registry over a channel to the orchestrator."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.RegistryServiceStub(channel)

    def register_public_keys(self, signing_key: bytes, sealing_key: bytes) -> None:
        request = pb.RegisterPublicKeysRequest(
            signing_key=signing_key, sealing_key=sealing_key
        )
        with remote_errors("orchestrator"):
            self._stub.RegisterPublicKeys(request)

    def party(self, spiffe_id: str) -> pb.Party:
        with remote_errors("orchestrator"):
            request = pb.ListPartiesRequest(spiffe_id=spiffe_id)
            parties = self._stub.ListParties(request).parties
        for party in parties:
            if party.spiffe_id == spiffe_id:
                return party
        raise NotFound(f"the registry knows no party {spiffe_id}")

    def model_version(self, model: str, version: int) -> pb.ModelVersion:
        request = pb.ListModelVersionsRequest(name=model)
        with remote_errors("orchestrator"):
            versions = self._stub.ListModelVersions(request).versions
        for candidate in versions:
            if (candidate.name, candidate.version) == (model, version):
                return candidate
        raise NotFound(f"the registry knows no version {version} of {model}")

    def issued_models(
        self, key_id: str = "", key_version: int = 0
    ) -> list[pb.IssuedModel]:
        request = pb.ListIssuedModelsRequest(key_id=key_id, key_version=key_version)
        found: list[pb.IssuedModel] = []
        while True:
            with remote_errors("orchestrator"):
                page = self._stub.ListIssuedModels(request)
            found += page.issued
            if not page.next:
                return found
            request.after = page.next

    def key_version(self, key_id: str, version: int) -> pb.KeyVersion:
        def ask(after: int) -> pb.ListKeyVersionsResponse:
            request = pb.ListKeyVersionsRequest(key_id=key_id, after=after)
            with remote_errors("orchestrator"):
                return self._stub.ListKeyVersions(request)

        for page in pages(ask):
            for found in page.versions:
                if (found.key_id, found.version) == (key_id, version):
                    return found
        raise NotFound(f"the registry knows no version {version} of {key_id}")

    def standing(self, since: int) -> pb.ListStandingResponse:
        """Who and what may be served, as far as it changed; for `parties.standing`."""
        request = pb.ListStandingRequest(since=since)
        with remote_errors("orchestrator"):
            return self._stub.ListStanding(request, timeout=_LOOK_S if since else None)

    def confirm_key_version(self, key_id: str, version: int) -> None:
        request = pb.ConfirmKeyVersionRequest(key_id=key_id, version=version)
        with remote_errors("orchestrator"):
            self._stub.ConfirmKeyVersion(request)


def active_party(registry: Registry, spiffe_id: str) -> pb.Party:
    """A party that may still act. Raises `NotAllowedError` once it is revoked."""
    party = registry.party(spiffe_id)
    if party.state != "active":
        raise NotAllowedError(f"{spiffe_id} is {party.state}")
    return party


def issued_in_use(
    registry: Registry, key_id: str, key_version: int, model: str, model_version: int
) -> pb.IssuedModel:
    """An issued model that may be served now, as the registry lists it.

    Raises:
        KeyRefusedError: its key version is not in use, or was not issued this model.
    """
    state = registry.key_version(key_id, key_version).state
    if state not in _IN_USE:
        raise KeyRefusedError(f"the key version is {state}")
    for each in registry.issued_models(key_id, key_version):
        named = (each.key_id, each.key_version, each.model, each.model_version)
        wanted = (key_id, key_version, model, model_version)
        if named == wanted and each.state in SERVED:
            return each
    raise KeyRefusedError("no such issued model is served")


def manifest_from(
    registry: Registry, provider: str, model: str, version: int
) -> Manifest:
    """The manifest of `provider`'s own model version, its signature verified.

    The registry is not taken at its word: the provider's signature must be right, and
    the manifest must be about this model.
    """
    registered = registry.model_version(model, version)
    if registered.provider != provider:
        raise NotAllowedError("this model version belongs to another provider")
    key = active_party(registry, provider).signing_key
    verify(key, MANIFEST, registered.manifest, registered.signature)
    manifest = Manifest.from_bytes(registered.manifest)
    if manifest.name != model:
        raise SignatureError("the signed manifest is about another model")
    return manifest

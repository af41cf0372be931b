"""The registry's gRPC service: decode, call, encode."""

from collections.abc import Mapping, Sequence

import grpc
from sqlalchemy.orm import Session

from core.rpc.errors import rpc_errors
from core.rpc.identity import OPERATOR
from core.rpc.policy import current_caller
from orchestrator.federation import Policies
from orchestrator.registry import budgets, sight, store
from orchestrator.registry.models import (
    Grant,
    IssuedModel,
    KeyVersion,
    ModelVersion,
    Party,
)
from orchestrator.registry.sight import Seen
from orchestrator.registry.store import Registry, Standing
from orchestrator.workflows import gate, keys, release
from protos import registry_pb2 as pb
from protos import registry_pb2_grpc as rpc


class RegistryService(rpc.RegistryServiceServicer):
    """The registry, as far as each caller may read and change it."""

    def __init__(self, registry: Registry, policies: Policies | None = None) -> None:
        self._registry = registry
        self._policies = policies or Policies()

    def RegisterPublicKeys(
        self, request: pb.RegisterPublicKeysRequest, context: grpc.ServicerContext
    ) -> pb.RegisterPublicKeysResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                party = store.register_public_keys(
                    change, request.signing_key, request.sealing_key
                )
                answer = _party(party)
            return pb.RegisterPublicKeysResponse(party=answer)

    def ListParties(
        self, request: pb.ListPartiesRequest, context: grpc.ServicerContext
    ) -> pb.ListPartiesResponse:
        with rpc_errors(context):
            caller = current_caller()
            with self._registry.reading(caller) as session:
                rows = store.parties_for(
                    session, caller, request.spiffe_id, after=request.after
                )
                found = [_party(row) for row in rows]
            return pb.ListPartiesResponse(parties=found, next=_next(rows))

    def RegisterModelVersion(
        self, request: pb.RegisterModelVersionRequest, context: grpc.ServicerContext
    ) -> pb.RegisterModelVersionResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                made = store.register_model_version(
                    change, request.manifest, request.signature
                )
                release.registered(change, made)
            return pb.RegisterModelVersionResponse(
                name=made.model.name, version=made.version
            )

    def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelVersionsResponse:
        with (
            rpc_errors(context),
            self._registry.reading(current_caller()) as session,
        ):
            aliases = store.aliases(session)
            found = [
                _model_version(row, aliases.get((row.model_id, row.version), ()))
                for row in store.model_versions(session, request.name)
            ]
            return pb.ListModelVersionsResponse(versions=found)

    def SetAlias(
        self, request: pb.SetAliasRequest, context: grpc.ServicerContext
    ) -> pb.SetAliasResponse:
        with rpc_errors(context):
            to = (request.name, request.alias, request.version)
            caller = current_caller()
            with (
                gate.recording(self._registry, caller),
                self._registry.change(caller) as change,
            ):
                release.point(change, self._policies, *to)
            return pb.SetAliasResponse()

    def ListKeyVersions(
        self, request: pb.ListKeyVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListKeyVersionsResponse:
        with rpc_errors(context):
            caller = current_caller()
            with self._registry.reading(caller) as session:
                rows = store.key_versions_for(
                    session, caller, request.key_id, after=request.after
                )
                found = [_key_version(row) for row in rows]
            return pb.ListKeyVersionsResponse(versions=found, next=_next(rows))

    def ConfirmKeyVersion(
        self, request: pb.ConfirmKeyVersionRequest, context: grpc.ServicerContext
    ) -> pb.ConfirmKeyVersionResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                keys.confirm(change, request.key_id, request.version)
            return pb.ConfirmKeyVersionResponse()

    def ListIssuedModels(
        self, request: pb.ListIssuedModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListIssuedModelsResponse:
        with rpc_errors(context):
            caller = current_caller()
            with self._registry.reading(caller) as session:
                rows = store.issued_models_for(
                    *(session, caller, request.key_id, request.key_version),
                    after=request.after,
                )
                totals = _totals(session, rows) if caller.role == OPERATOR else {}
                found = [_issued_model(row, totals) for row in rows]
            return pb.ListIssuedModelsResponse(issued=found, next=_next(rows))

    def ListGrants(
        self, request: pb.ListGrantsRequest, context: grpc.ServicerContext
    ) -> pb.ListGrantsResponse:
        with rpc_errors(context):
            caller = current_caller()
            with self._registry.reading(caller) as session:
                rows = budgets.grants_for(
                    session, caller, request.owner, after=request.after
                )
                found = [_grant(row, self._registry.clock()) for row in rows]
            return pb.ListGrantsResponse(grants=found, next=_next(rows))

    def ListStanding(
        self, request: pb.ListStandingRequest, context: grpc.ServicerContext
    ) -> pb.ListStandingResponse:
        with rpc_errors(context):
            with self._registry.reading(current_caller()) as session:
                found = store.standing_since(session, request.since)
            return _standing(found)


def _next(rows: Sequence[Party | KeyVersion | IssuedModel | Grant]) -> int:
    """Where to go on after a page; 0 if it was the last, as it is not full."""
    return rows[-1].id if len(rows) == store.LARGEST_PAGE else 0


def _party(row: Party) -> pb.Party:
    return pb.Party(
        spiffe_id=row.spiffe_id,
        organisation=row.organisation.name,
        role=row.role,
        state=row.state,
        signing_key=row.signing_key or b"",
        sealing_key=row.sealing_key or b"",
    )


def _model_version(row: ModelVersion, aliases: Sequence[str]) -> pb.ModelVersion:
    return pb.ModelVersion(
        name=row.model.name,
        version=row.version,
        provider=row.model.provider.spiffe_id,
        manifest=row.manifest,
        signature=row.signature,
        aliases=aliases,
        created_at_ms=row.created_at_ms,
        exposed_at_ms=row.exposed_at_ms or 0,
        public_embedding=row.public_embedding,
    )


def _key_version(row: KeyVersion) -> pb.KeyVersion:
    return pb.KeyVersion(
        key_id=row.key.key_id,
        version=row.version,
        owner=row.key.owner.spiffe_id,
        model=row.key.model.name,
        generator=row.generator or "",
        patch_size=row.key.patch_size,
        channels=row.key.channels,
        commitment=row.commitment or b"",
        state=row.state,
        primary=row.is_primary,
        confirmed=row.confirmed,
        created_at_ms=row.created_at_ms,
        retire_at_ms=row.retire_at_ms or 0,
        destroy_at_ms=row.destroy_at_ms or 0,
        images_used=row.images_used,
        changed_at_ms=row.changed_at_ms,
        reason=row.reason,
    )


def _totals(session: Session, rows: Sequence[IssuedModel]) -> dict[int, Seen]:
    """What was seen of the embedding of each model version, by its row's id."""
    versions = {row.model_version_id: row.model_version for row in rows}
    return {key: sight.of_embedding(session, each) for key, each in versions.items()}


def _issued_model(row: IssuedModel, totals: Mapping[int, Seen]) -> pb.IssuedModel:
    seen, total = sight.under_key(row), totals.get(row.model_version_id)
    return pb.IssuedModel(
        key_id=row.key_version.key.key_id,
        key_version=row.key_version.version,
        model=row.key_version.key.model.name,
        model_version=row.model_version.version,
        owner=row.key_version.key.owner.spiffe_id,
        digest=row.digest,
        state=row.state,
        created_at_ms=row.created_at_ms,
        audit_index=row.live_index or 0,
        images=seen.images,
        blocks=seen.blocks,
        total_images=total.images if total else None,
        total_blocks=total.blocks if total else None,
    )


def _grant(row: Grant, now_ms: int) -> pb.Grant:
    return pb.Grant(
        owner=row.owner.spiffe_id,
        model=row.model.name,
        max_images=row.max_images,
        period=row.budget_period,
        images_used=budgets.used_now(row, now_ms),
        renews_at_ms=budgets.renews_at_ms(row, now_ms),
        created_at_ms=row.created_at_ms,
        revoked_at_ms=row.revoked_at_ms or 0,
    )


def _standing(found: Standing) -> pb.ListStandingResponse:
    return pb.ListStandingResponse(
        revision=found.revision,
        parties=[
            pb.PartyStanding(spiffe_id=party.spiffe_id, state=party.state)
            for party in found.parties
        ],
        keys=[
            pb.KeyStanding(
                key_id=key.key_id,
                version=key.version,
                owner=key.owner,
                model=key.model,
                state=key.state,
                retire_at_ms=key.retire_at_ms or 0,
            )
            for key in found.keys
        ],
    )

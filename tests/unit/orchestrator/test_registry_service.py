"""The registry's service, called without a wire: what each caller reads and changes."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from core.rpc.identity import SpiffeId
from core.rpc.policy import acting_as
from core.sealing import X25519, SealingKey
from core.statements import MANIFEST, sign
from orchestrator.registry import store
from orchestrator.registry.service import RegistryService
from protos import registry_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    EVERYBODY,
    KEY_HOLDER_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    PROVIDER_KEY,
    RIVAL_ID,
    SERVER_ID,
    Office,
    manifest_bytes,
    spiffe,
)

SEALING = SealingKey(X25519, b"a" * 32).public_bytes()


def ask(
    office: Office,
    caller: SpiffeId,
    method: Callable[..., Any],
    request: object,
) -> Any:
    with acting_as(caller):
        return method(RegistryService(office.registry), request, fake_context())


def refusal(
    office: Office,
    caller: SpiffeId,
    method: Callable[..., Any],
    request: object,
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Aborted) as caught:
        ask(office, caller, method, request)
    code, details = caught.value.args
    return code, details.partition(":")[0]


def test_a_party_reads_back_what_it_registered(office: Office) -> None:
    request = pb.RegisterPublicKeysRequest(signing_key=b"s" * 32, sealing_key=SEALING)
    method = RegistryService.RegisterPublicKeys
    party = ask(office, ALDER_ID, method, request).party

    assert party == pb.Party(
        spiffe_id=str(ALDER_ID),
        organisation="alder",
        role="data-owner",
        state="active",
        signing_key=b"s" * 32,
        sealing_key=SEALING,
    )
    request.signing_key = b"t" * 32
    assert refusal(office, ALDER_ID, method, request) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Conflict",
    )


@pytest.mark.parametrize(
    ("caller", "unseen"),
    [
        (BIRCH_ID, {ALDER_ID, OPERATOR_ID}),
        (PROVIDER_ID, {ALDER_ID, BIRCH_ID, OPERATOR_ID}),
        (OPERATOR_ID, set()),
        (KEY_HOLDER_ID, set()),
        (SERVER_ID, set()),
    ],
)
def test_who_the_owners_are_is_for_those_who_serve_them(
    office: Office, caller: SpiffeId, unseen: set[SpiffeId]
) -> None:
    method = RegistryService.ListParties
    parties = ask(office, caller, method, pb.ListPartiesRequest()).parties

    assert [party.spiffe_id for party in parties] == [
        str(party) for party in EVERYBODY if party not in unseen
    ]


def test_a_release_is_registered_and_listed_with_its_aliases(office: Office) -> None:
    manifest = manifest_bytes(seed=1)
    signature = sign(PROVIDER_KEY, MANIFEST, manifest)
    made = ask(
        office,
        PROVIDER_ID,
        RegistryService.RegisterModelVersion,
        pb.RegisterModelVersionRequest(manifest=manifest, signature=signature),
    )
    ask(
        office,
        PROVIDER_ID,
        RegistryService.SetAlias,
        pb.SetAliasRequest(name=MODEL, alias="champion", version=2),
    )
    method = RegistryService.ListModelVersions
    found = ask(office, ALDER_ID, method, pb.ListModelVersionsRequest()).versions

    assert (made.name, made.version) == (MODEL, 2)
    assert [(v.version, list(v.aliases)) for v in found] == [(1, []), (2, ["champion"])]
    assert (found[1].manifest, found[1].signature) == (manifest, signature)
    assert found[1].provider == str(PROVIDER_ID)
    unknown = pb.ListModelVersionsRequest(name="ghosts")
    assert not ask(office, ALDER_ID, method, unknown).versions


def test_a_release_signed_by_nobody_is_refused(office: Office) -> None:
    request = pb.RegisterModelVersionRequest(manifest=manifest_bytes(), signature=b"")

    assert refusal(
        office, PROVIDER_ID, RegistryService.RegisterModelVersion, request
    ) == (grpc.StatusCode.PERMISSION_DENIED, "Signature")


def test_another_providers_alias_is_not_moved(office: Office) -> None:
    request = pb.SetAliasRequest(name=MODEL, alias="champion", version=1)

    assert refusal(office, RIVAL_ID, RegistryService.SetAlias, request) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "NotAllowed",
    )


def test_key_versions_and_issued_models_read_as_they_are(office: Office) -> None:
    key_id = office.active_key()
    keys = ask(
        office,
        ALDER_ID,
        RegistryService.ListKeyVersions,
        pb.ListKeyVersionsRequest(),
    )
    issued = ask(
        office,
        SERVER_ID,
        RegistryService.ListIssuedModels,
        pb.ListIssuedModelsRequest(),
    )
    (version,), (model,) = keys.versions, issued.issued

    assert (version.key_id, version.version, version.owner) == (
        key_id,
        1,
        str(ALDER_ID),
    )
    assert (version.state, version.primary, version.confirmed) == ("active", True, True)
    assert (version.patch_size, version.channels, version.retire_at_ms) == (4, 3, 0)
    assert (version.generator, len(version.commitment)) == ("fake-v1", 32)
    assert (model.key_id, model.key_version, model.model, model.model_version) == (
        *(key_id, 1),
        *(MODEL, 1),
    )
    assert (model.owner, model.state, len(model.digest)) == (str(ALDER_ID), "live", 32)


def test_another_owner_reads_nothing_of_it(office: Office) -> None:
    office.active_key(ALDER_ID)
    keys = ask(
        office,
        BIRCH_ID,
        RegistryService.ListKeyVersions,
        pb.ListKeyVersionsRequest(),
    )
    issued = ask(
        office,
        BIRCH_ID,
        RegistryService.ListIssuedModels,
        pb.ListIssuedModelsRequest(),
    )

    assert not keys.versions
    assert not issued.issued


def test_a_key_version_nobody_knows_is_not_confirmed(office: Office) -> None:
    request = pb.ConfirmKeyVersionRequest(key_id="alder.cells", version=1)

    assert refusal(
        office, KEY_HOLDER_ID, RegistryService.ConfirmKeyVersion, request
    ) == (grpc.StatusCode.NOT_FOUND, "NotFound")


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (RegistryService.ListParties, pb.ListPartiesRequest()),
        (RegistryService.ListModelVersions, pb.ListModelVersionsRequest()),
        (RegistryService.ListKeyVersions, pb.ListKeyVersionsRequest()),
        (RegistryService.ListIssuedModels, pb.ListIssuedModelsRequest()),
        (
            RegistryService.RegisterPublicKeys,
            pb.RegisterPublicKeysRequest(signing_key=b"s" * 32),
        ),
    ],
)
def test_a_party_that_is_not_enrolled_gets_nothing(
    office: Office, method: Callable[..., Any], request_: object
) -> None:
    stranger = spiffe("stranger", "data-owner")

    assert refusal(office, stranger, method, request_) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "NotAllowed",
    )


def test_an_operator_reads_every_key(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    method = RegistryService.ListKeyVersions
    found = ask(office, OPERATOR_ID, method, pb.ListKeyVersionsRequest()).versions

    assert [version.key_id for version in found] == ["alder.cells", "birch.cells"]


def test_a_full_page_says_where_to_go_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LARGEST_PAGE", 2)
    office.active_key(ALDER_ID)
    parties: list[str] = []
    after = -1
    while after:
        request = pb.ListPartiesRequest(after=max(after, 0))
        answer = ask(office, OPERATOR_ID, RegistryService.ListParties, request)
        parties.extend(party.spiffe_id for party in answer.parties)
        after = answer.next
    keys = ask(
        office,
        OPERATOR_ID,
        RegistryService.ListKeyVersions,
        pb.ListKeyVersionsRequest(),
    )

    assert parties == [str(party) for party in EVERYBODY]
    assert (len(keys.versions), keys.next) == (1, 0)


def test_one_entry_is_found_by_its_name(office: Office) -> None:
    alder, birch = office.active_key(ALDER_ID), office.active_key(BIRCH_ID)
    party = ask(
        office,
        SERVER_ID,
        RegistryService.ListParties,
        pb.ListPartiesRequest(spiffe_id=str(BIRCH_ID)),
    )
    key = ask(
        office,
        SERVER_ID,
        RegistryService.ListKeyVersions,
        pb.ListKeyVersionsRequest(key_id=alder),
    )
    issued = ask(
        office,
        SERVER_ID,
        RegistryService.ListIssuedModels,
        pb.ListIssuedModelsRequest(key_id=birch, key_version=1),
    )

    assert [each.spiffe_id for each in party.parties] == [str(BIRCH_ID)]
    assert [each.key_id for each in key.versions] == [alder]
    assert [each.key_id for each in issued.issued] == [birch]

"""The orchestrator over real TLS: its services, its peers, its end and its return."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from core.checkpoint import open_checkpoint
from core.errors import ConfigurationError, PeerUnavailable
from core.rpc.channel import open_channel, wait_ready
from core.rpc.errors import RemoteError, remote_errors
from core.rpc.identity import (
    DATA_OWNER,
    Identity,
    SpiffeId,
    create_identity,
    install_certificate,
    load_identity,
)
from core.rpc.policy import Policy
from core.rpc.server import RunningServer, serve
from core.rpc.settings import Peer
from core.statements import MANIFEST, sign
from orchestrator.audit.keys import public_log_key
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.certificates import DevelopmentCA
from orchestrator.errors import LogRewound
from orchestrator.federation import Policies
from orchestrator.server import SERVICES, open_peers, open_registry, orchestrate
from orchestrator.settings import Settings
from orchestrator.workflows.peers import (
    InferenceServer,
    IssueId,
    KeyHolder,
    KeyToDraw,
    Peers,
    RemoteInferenceServer,
    RemoteKeyHolder,
    SignedReceipt,
)
from protos import (
    audit_pb2,
    audit_pb2_grpc,
    key_holder_pb2,
    key_holder_pb2_grpc,
    model_store_pb2,
    model_store_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)
from tests.fakes import FakeInferenceServer, FakeKeyHolder
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    EVERYBODY,
    FEDERATION,
    KEY_HOLDER_ID,
    MODEL,
    OPERATOR_ID,
    ORCHESTRATOR_ID,
    PROVIDER_ID,
    PROVIDER_KEY,
    SERVER_ID,
    manifest_bytes,
    spiffe,
)

ALDER = str(ALDER_ID)
PATIENCE_S = 60.0
KEY_HOLDER_METHODS = (
    *("CreateKeyVersion", "PrepareIssuedModel"),
    *("SendIssuedModel", "DestroyKeyVersion", "ExportKeyVersion"),
)


@dataclass
class Town:
    """A certificate authority and the parties it has certified so far."""

    folder: Path
    authority: DevelopmentCA
    identities: dict[SpiffeId, Identity] = field(default_factory=dict)

    def home(self, party: SpiffeId) -> Path:
        return self.folder / f"{party.organisation}-{party.role}"

    def identity(self, party: SpiffeId) -> Identity:
        if party not in self.identities:
            home = self.home(party)
            certificate = self.authority.sign(create_identity(home, party), party)
            install_certificate(home, certificate, self.authority.ca_pem)
            self.identities[party] = load_identity(home)
        return self.identities[party]

    def settings(
        self, key_holder: str = "127.0.0.1:1", inference_server: str = "127.0.0.1:1"
    ) -> Settings:
        return Settings(
            folder=self.home(ORCHESTRATOR_ID),
            federation=FEDERATION,
            listen="127.0.0.1:0",
            origin=f"{FEDERATION}/audit",
            key_holder=Peer(key_holder, KEY_HOLDER_ID),
            inference_servers=(Peer(inference_server, SERVER_ID),),
            parties=EVERYBODY,
            database=f"sqlite:///{self.home(ORCHESTRATOR_ID) / 'registry.db'}",
            policies=Policies(destroy_window_s=0.0),
        )


@dataclass
class Desk:
    """An orchestrator that answers at `address`, and how to call it as anybody."""

    town: Town
    address: str
    stack: ExitStack

    def channel(self, caller: SpiffeId) -> grpc.Channel:
        identity = self.town.identity(caller)
        channel = open_channel(
            self.address, identity, ORCHESTRATOR_ID, deadline_s=PATIENCE_S
        )
        return self.stack.enter_context(channel)

    def registry(self, caller: SpiffeId) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self.channel(caller))

    def audit(self, caller: SpiffeId) -> audit_pb2_grpc.AuditServiceStub:
        return audit_pb2_grpc.AuditServiceStub(self.channel(caller))

    def workflows(self, caller: SpiffeId) -> workflows_pb2_grpc.WorkflowServiceStub:
        return workflows_pb2_grpc.WorkflowServiceStub(self.channel(caller))

    def entries(self, kind: str = "") -> list[Entry]:
        request = audit_pb2.ListEntriesRequest(kind=kind)
        answer = self.audit(OPERATOR_ID).ListEntries(request)
        return [parse_entry(entry.body) for entry in answer.entries]

    def register(self, caller: SpiffeId, signing_key: bytes) -> None:
        self.registry(caller).RegisterPublicKeys(
            registry_pb2.RegisterPublicKeysRequest(signing_key=signing_key)
        )

    def release(self) -> int:
        """Register the provider's key and a model; returns its version."""
        self.register(PROVIDER_ID, PROVIDER_KEY.public_key().public_bytes_raw())
        manifest = manifest_bytes()
        request = registry_pb2.RegisterModelVersionRequest(
            manifest=manifest, signature=sign(PROVIDER_KEY, MANIFEST, manifest)
        )
        return self.registry(PROVIDER_ID).RegisterModelVersion(request).version

    def create_key(self) -> tuple[str, int]:
        workflows = self.workflows(OPERATOR_ID)
        workflows.GrantModel(workflows_pb2.GrantModelRequest(owner=ALDER, model=MODEL))
        made = workflows.CreateKey(
            workflows_pb2.CreateKeyRequest(owner=ALDER, model=MODEL)
        )
        return made.key_id, made.version

    def confirm(self, key_id: str, version: int) -> None:
        self.registry(KEY_HOLDER_ID).ConfirmKeyVersion(
            registry_pb2.ConfirmKeyVersionRequest(key_id=key_id, version=version)
        )

    def states(self) -> dict[int, str]:
        """The states of the key versions that their owner sees."""
        request = registry_pb2.ListKeyVersionsRequest()
        answer = self.registry(ALDER_ID).ListKeyVersions(request)
        return {version.version: version.state for version in answer.versions}


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path, DevelopmentCA.create(tmp_path / "ca"))
    town.identity(ORCHESTRATOR_ID)
    return town


@contextmanager
def desk(
    town: Town, key_holder: KeyHolder, inference_server: InferenceServer
) -> Iterator[Desk]:
    settings, identity = town.settings(), town.identity(ORCHESTRATOR_ID)
    peers = Peers(key_holder, inference_server, str(KEY_HOLDER_ID))
    with (
        open_registry(settings, identity) as registry,
        orchestrate(settings, identity, registry, peers) as server,
        ExitStack() as stack,
    ):
        yield Desk(town, server.address, stack)


@pytest.fixture
def key_holder() -> FakeKeyHolder:
    return FakeKeyHolder(FakeInferenceServer())


@pytest.fixture
def office(town: Town, key_holder: FakeKeyHolder) -> Iterator[Desk]:
    with desk(town, key_holder, key_holder.server) as found:
        found.register(KEY_HOLDER_ID, key_holder.public_key)
        yield found


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def inference(key_version: int) -> audit_pb2.InferenceRecord:
    return audit_pb2.InferenceRecord(
        request_id="r",
        owner=ALDER,
        key_id="alder.cells",
        key_version=key_version,
        model=MODEL,
        model_version=1,
        images=1,
        request_digest=bytes(32),
        result_digest=bytes(32),
    )


def test_a_keys_whole_life_over_the_wire(
    office: Desk, key_holder: FakeKeyHolder
) -> None:
    assert office.release() == 1
    key_id, version = office.create_key()
    eventually(lambda: office.states() == {1: "pre_active"})
    office.confirm(key_id, version)
    eventually(lambda: office.states() == {1: "active"})
    workflows = office.workflows(OPERATOR_ID)
    workflows.RotateKeys(
        workflows_pb2.RotateKeysRequest(owner=ALDER, model=MODEL, overlap_s=0.0)
    )
    eventually(lambda: 2 in office.states())
    office.confirm(key_id, 2)
    eventually(lambda: office.states() == {1: "destroyed", 2: "active"})
    record = audit_pb2.RecordInferencesRequest(
        records=[inference(key_version=1), inference(key_version=2)]
    )
    verdicts = office.audit(SERVER_ID).RecordInferences(record).verdicts
    workflows.RevokeKey(
        workflows_pb2.RevokeKeyRequest(owner=ALDER, model=MODEL, reason="lost")
    )
    after = office.audit(SERVER_ID).RecordInferences(record).verdicts
    eventually(lambda: office.states() == {1: "destroyed", 2: "destroyed"})

    assert [verdict.refusal for verdict in verdicts] == ["KeyRefused", ""]
    assert [verdict.refusal for verdict in after] == ["KeyRefused", "KeyRefused"]
    assert key_holder.server.stored == set()
    assert key_holder.destroyed == {(key_id, 1), (key_id, 2)}


def test_a_call_that_is_not_for_its_caller_is_refused_and_recorded(
    office: Desk,
) -> None:
    request = workflows_pb2.RevokeKeyRequest(owner=ALDER, model=MODEL, reason="lost")
    with pytest.raises(RemoteError) as caught, remote_errors("orchestrator"):
        office.workflows(BIRCH_ID).RevokeKey(request)

    assert (caught.value.kind, caught.value.status) == (
        "NotAllowed",
        grpc.StatusCode.PERMISSION_DENIED,
    )
    eventually(lambda: bool(office.entries("refused")))
    (entry,) = office.entries("refused")
    assert entry.subject == {
        "caller": str(BIRCH_ID),
        "method": "/keymixer.v1.WorkflowService/RevokeKey",
        "kind": "NotAllowed",
    }


def test_what_the_state_of_things_does_not_allow_is_recorded_too(office: Desk) -> None:
    """An operator who asks for a key without a grant is refused, on record."""
    office.release()
    request = workflows_pb2.CreateKeyRequest(owner=str(BIRCH_ID), model=MODEL)
    with pytest.raises(RemoteError) as caught, remote_errors("orchestrator"):
        office.workflows(OPERATOR_ID).CreateKey(request)
    eventually(lambda: bool(office.entries("refused")))
    (entry,) = office.entries("refused")

    assert entry.subject["kind"] == caught.value.kind == "NotGranted"
    assert entry.subject["method"] == "/keymixer.v1.WorkflowService/CreateKey"


def test_a_certificate_alone_makes_nobody_a_party(office: Desk) -> None:
    stranger = spiffe("stranger", DATA_OWNER)
    with pytest.raises(RemoteError) as caught, remote_errors("orchestrator"):
        office.registry(stranger).ListParties(registry_pb2.ListPartiesRequest())

    assert caught.value.kind == "NotAllowed"


def test_without_a_certificate_there_is_no_answer(office: Desk) -> None:
    credentials = grpc.ssl_channel_credentials(office.town.authority.ca_pem)
    with grpc.secure_channel(office.address, credentials) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        with pytest.raises(PeerUnavailable), remote_errors("orchestrator"):
            stub.ListParties(registry_pb2.ListPartiesRequest(), timeout=PATIENCE_S)


def test_it_is_healthy_once_it_serves(office: Desk) -> None:
    identity = office.town.identity(OPERATOR_ID)
    for service in ("", *SERVICES):
        wait_ready(office.address, identity, ORCHESTRATOR_ID, service, PATIENCE_S)


def test_after_a_restart_everything_is_where_it_was(
    town: Town, key_holder: FakeKeyHolder
) -> None:
    with desk(town, key_holder, key_holder.server) as office:
        office.register(KEY_HOLDER_ID, key_holder.public_key)
        office.release()
        key_id, version = office.create_key()
        eventually(lambda: office.states() == {1: "pre_active"})
        before = office.entries()
        office.audit(ALDER_ID).GetCheckpoint(audit_pb2.GetCheckpointRequest())
    with desk(town, key_holder, key_holder.server) as office:
        *still, policy = office.entries()
        assert still == before, "parties are enrolled once"
        assert policy.kind == "policy.in_force", "each start says by which rules"
        office.confirm(key_id, version)
        eventually(lambda: office.states() == {1: "active"})


def test_a_log_that_lost_signed_records_is_not_served(
    town: Town, key_holder: FakeKeyHolder
) -> None:
    with desk(town, key_holder, key_holder.server) as office:
        office.audit(ALDER_ID).GetCheckpoint(audit_pb2.GetCheckpointRequest())
    for file in town.home(ORCHESTRATOR_ID).glob("registry.db*"):
        file.unlink()

    with pytest.raises(LogRewound), desk(town, key_holder, key_holder.server):
        pass


def test_the_log_is_signed_at_the_start_and_as_it_grows(town: Town) -> None:
    """Whoever kills the orchestrator finds a checkpoint over what is in the log."""
    settings, identity = town.settings(), town.identity(ORCHESTRATOR_ID)
    side_file = settings.folder / "checkpoint.txt"
    with open_registry(settings, identity) as registry:

        def signed() -> int:
            key = public_log_key(settings.folder)
            note = side_file.read_bytes()
            return open_checkpoint(note, key, settings.origin).size

        enrolled = registry.log.size()
        assert signed() == enrolled
        with registry.own_change() as change:
            change.record("refusals.missed", {"count": 1})
        eventually(lambda: signed() == enrolled + 1)


def test_the_key_of_the_log_is_private_and_signs_its_checkpoints(office: Desk) -> None:
    home = office.town.home(ORCHESTRATOR_ID)
    request = audit_pb2.GetCheckpointRequest()
    answer = office.audit(ALDER_ID).GetCheckpoint(request)

    assert (home / "log.key").stat().st_mode & 0o777 == 0o600
    assert answer.public_key == public_log_key(home)


def test_no_log_key_is_made_up_for_who_wants_to_verify(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        public_log_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


# The peers, behind their own doors


def _not_asked(_self: object, _request: object, _context: object) -> NoReturn:
    raise NotImplementedError


# For the methods that the orchestrator never calls.
not_asked: Any = _not_asked


class KeyHolderDoor(key_holder_pb2_grpc.KeyHolderServiceServicer):
    """Hands what the orchestrator asks to a fake key holder."""

    StoreEmbedding = FetchSealedKey = ProvePossession = not_asked
    FetchIssuedModel = not_asked

    def __init__(self, fake: FakeKeyHolder) -> None:
        self._fake = fake

    def CreateKeyVersion(
        self,
        request: key_holder_pb2.CreateKeyVersionRequest,
        context: grpc.ServicerContext,
    ) -> key_holder_pb2.CreateKeyVersionResponse:
        drawn = self._fake.draw(
            KeyToDraw(
                request.key_id,
                request.version,
                request.owner,
                request.model,
                request.patch_size,
                request.channels,
            ),
            request.idempotency_key,
        )
        return key_holder_pb2.CreateKeyVersionResponse(
            generator=drawn.generator, commitment=drawn.commitment
        )

    def PrepareIssuedModel(
        self,
        request: key_holder_pb2.PrepareIssuedModelRequest,
        context: grpc.ServicerContext,
    ) -> key_holder_pb2.PrepareIssuedModelResponse:
        prepared = self._fake.prepare(_issue(request), request.idempotency_key)
        return key_holder_pb2.PrepareIssuedModelResponse(
            statement=prepared.statement, signature=prepared.signature
        )

    def SendIssuedModel(
        self,
        request: key_holder_pb2.SendIssuedModelRequest,
        context: grpc.ServicerContext,
    ) -> key_holder_pb2.SendIssuedModelResponse:
        self._fake.send(_issue(request), request.idempotency_key)
        return key_holder_pb2.SendIssuedModelResponse()

    def DestroyKeyVersion(
        self,
        request: key_holder_pb2.DestroyKeyVersionRequest,
        context: grpc.ServicerContext,
    ) -> key_holder_pb2.DestroyKeyVersionResponse:
        signed = self._fake.destroy(
            request.key_id, request.version, request.idempotency_key
        )
        return key_holder_pb2.DestroyKeyVersionResponse(
            receipt=signed.receipt, signature=signed.signature
        )

    def ExportKeyVersion(
        self,
        request: key_holder_pb2.ExportKeyVersionRequest,
        context: grpc.ServicerContext,
    ) -> key_holder_pb2.ExportKeyVersionResponse:
        sealed = self._fake.export(request.key_id, request.version)
        return key_holder_pb2.ExportKeyVersionResponse(
            envelope=sealed.envelope,
            signature=sealed.signature,
            expires_at_ms=sealed.expires_at_ms,
        )


class ModelStoreDoor(model_store_pb2_grpc.ModelStoreServiceServicer):
    """Hands what the orchestrator asks to a fake inference server."""

    StoreBackbone = StoreIssuedModel = FetchBackbone = not_asked

    def __init__(self, fake: FakeInferenceServer) -> None:
        self._fake = fake

    def DeleteIssuedModel(
        self,
        request: model_store_pb2.DeleteIssuedModelRequest,
        context: grpc.ServicerContext,
    ) -> model_store_pb2.DeleteIssuedModelResponse:
        if _issue(request) not in self._fake.stored:
            context.abort(grpc.StatusCode.NOT_FOUND, "NotFound")
        self._fake.delete(_issue(request), request.idempotency_key)
        return model_store_pb2.DeleteIssuedModelResponse()


def _issue(
    request: key_holder_pb2.PrepareIssuedModelRequest
    | key_holder_pb2.SendIssuedModelRequest
    | model_store_pb2.DeleteIssuedModelRequest,
) -> IssueId:
    return IssueId(
        request.key_id, request.key_version, request.model, request.model_version
    )


@contextmanager
def doors(town: Town, fake: FakeKeyHolder) -> Iterator[Settings]:
    """Serve both fakes over TLS; yields settings that name where."""
    with (
        _door(
            town.identity(KEY_HOLDER_ID),
            "KeyHolderService",
            KEY_HOLDER_METHODS,
            lambda server: key_holder_pb2_grpc.add_KeyHolderServiceServicer_to_server(
                KeyHolderDoor(fake), server
            ),
        ) as key_holder,
        _door(
            town.identity(SERVER_ID),
            "ModelStoreService",
            ("DeleteIssuedModel",),
            lambda server: model_store_pb2_grpc.add_ModelStoreServiceServicer_to_server(
                ModelStoreDoor(fake.server), server
            ),
        ) as model_store,
    ):
        yield town.settings(key_holder.address, model_store.address)


@contextmanager
def _door(
    identity: Identity,
    service: str,
    methods: tuple[str, ...],
    register: Callable[[grpc.Server], None],
) -> Iterator[RunningServer]:
    only_us = frozenset({ORCHESTRATOR_ID.role})
    policy: Policy = {f"/keymixer.v1.{service}/{m}": only_us for m in methods}
    with serve(identity, policy, register, [f"keymixer.v1.{service}"]) as server:
        server.set_serving(True)
        yield server


def test_the_adapters_carry_every_call_to_the_other_party(
    town: Town, key_holder: FakeKeyHolder
) -> None:
    key = KeyToDraw("alder.cells", 1, ALDER, MODEL, 4, 3)
    issue, named = IssueId("alder.cells", 1, MODEL, 1), ("alder.cells", 1)
    with (
        doors(town, key_holder) as settings,
        open_peers(settings, town.identity(ORCHESTRATOR_ID)) as peers,
    ):
        holder, server = peers.key_holder, peers.inference_server
        assert holder.draw(key, "1/draw") == key_holder.draw(key, "1/draw")
        prepared = holder.prepare(issue, "1/prepare")
        assert prepared == key_holder.prepare(issue, "1/prepare")
        holder.send(issue, "1/send")
        assert key_holder.server.stored == {issue}
        assert holder.export(*named) == key_holder.export(*named)
        server.delete(issue, "2/remove")
        assert key_holder.server.stored == set()
        signed = holder.destroy(*named, "2/destroy")
        assert signed == key_holder.destroy(*named, "2/destroy")
        assert key_holder.destroyed == {named}

    done = {**key_holder.effects.done, **key_holder.server.effects.done}
    assert set(done) == {"1/draw", "1/prepare", "1/send", "2/remove", "2/destroy"}


def test_what_is_not_there_is_deleted_and_destroyed_already(
    town: Town, key_holder: FakeKeyHolder
) -> None:
    with (
        doors(town, key_holder) as settings,
        open_peers(settings, town.identity(ORCHESTRATOR_ID)) as peers,
    ):
        signed = peers.key_holder.destroy("ghost", 1, "1/destroy")
        peers.inference_server.delete(IssueId("ghost", 1, MODEL, 1), "1/remove")

    assert signed == SignedReceipt(b"", b"")
    assert key_holder.server.calls["delete"] == 0


def test_a_refusal_of_a_peer_is_not_taken_for_absence(town: Town) -> None:
    with (
        _door(town.identity(KEY_HOLDER_ID), "Other", (), lambda _: None) as closed,
        open_channel(
            closed.address, town.identity(ORCHESTRATOR_ID), KEY_HOLDER_ID
        ) as channel,
        pytest.raises(RemoteError),
    ):
        RemoteKeyHolder(channel).destroy("alder.cells", 1, "1/destroy")


def test_a_peer_that_is_down_is_unavailable(town: Town) -> None:
    with (
        open_channel(
            "127.0.0.1:1", town.identity(ORCHESTRATOR_ID), SERVER_ID
        ) as channel,
        pytest.raises(PeerUnavailable),
    ):
        RemoteInferenceServer([channel]).delete(IssueId("k", 1, MODEL, 1), "1/remove")


# The process


@contextmanager
def process(town: Town) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """`python -m orchestrator`, once it is healthy, and its address."""
    home = town.home(ORCHESTRATOR_ID)
    (home / "address").unlink(missing_ok=True)
    command = [sys.executable, "-m", "orchestrator", "--folder", str(home)]
    with (home / "log").open("ab") as log:
        child = subprocess.Popen(command, stderr=log)
    try:
        eventually(lambda: (home / "address").exists() or child.poll() is not None)
        address = (home / "address").read_text()
        operator = town.identity(OPERATOR_ID)
        wait_ready(address, operator, ORCHESTRATOR_ID, "", PATIENCE_S)
        yield child, address
    finally:
        child.kill()
        child.wait()


def write_settings(town: Town) -> None:
    settings = town.settings()
    content = {
        "federation": FEDERATION,
        "listen": settings.listen,
        "key_holder": _peer(settings.key_holder),
        "inference_server": _peer(settings.inference_servers[0]),
        "parties": [{"spiffe_id": str(party)} for party in EVERYBODY],
    }
    path = town.home(ORCHESTRATOR_ID) / "settings.json"
    path.write_text(json.dumps(content))


def _peer(peer: Peer) -> dict[str, str]:
    return {"address": peer.address, "spiffe_id": str(peer.spiffe_id)}


def test_the_process_survives_a_kill_and_stops_when_told(town: Town) -> None:
    write_settings(town)
    with process(town) as (child, address), ExitStack() as stack:
        office = Desk(town, address, stack)
        assert office.release() == 1
        before = office.entries()
        child.kill()
        child.wait()
    with process(town) as (child, address), ExitStack() as stack:
        office = Desk(town, address, stack)

        *still, policy = office.entries()
        assert still == before
        assert policy.kind == "policy.in_force"
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0


def test_a_process_with_wrong_settings_says_so_and_ends(town: Town) -> None:
    home = town.home(ORCHESTRATOR_ID)
    (home / "settings.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--folder", str(home)],
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    assert b"federation" in done.stderr

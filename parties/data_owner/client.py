"""A data owner's client: keys in, encrypted images out, answers back.

Images are encrypted here and leave this process only as blocks `A x`. That hides them
from the eye of whoever runs the inference server; it is no protection against a server
that attacks (see `docs/threat-model.md`).
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import KeymixerError, NotFound, ShapeError, Unavailable
from core.manifest import Manifest
from core.normals import Entropy
from core.receipt import Receipt as Proof
from core.rpc.channel import open_channel
from core.rpc.errors import RemoteRefusedError, remote_errors
from core.rpc.identity import Identity, SpiffeId, load_identity
from core.rpc.pages import pages
from core.rpc.party import ensure_signing_key
from core.rpc.patience import Patience
from core.rpc.private_files import ensure_private
from core.rpc.renewal import renewing_channel
from core.rpc.settings import Peer
from core.sealing import SealingKey
from parties.data_owner.answers import Answers, Receipt, joined
from parties.data_owner.choosing import (
    CANDIDATE,
    CHAMPION,
    Choice,
    Uses,
    comparable,
)
from parties.data_owner.delivery import Delivery
from parties.data_owner.errors import NoKeyError, UnknownModelError
from parties.data_owner.inference import (
    Blocks,
    Pixels,
    Use,
    budget_errors,
    read_answer,
    request_for,
)
from parties.data_owner.keyring import Keyring
from parties.data_owner.recorded import redeem, require_recorded
from parties.data_owner.servers import Infer, Servers, ask_one_of
from parties.data_owner.settings import OwnerSettings
from parties.data_owner.witness import Witness
from parties.data_owner.witnessed import WitnessFile
from parties.registry import GrpcRegistry, active_party, manifest_from
from protos import open_inference_pb2 as pb
from protos import registry_pb2, registry_pb2_grpc
from protos.audit_pb2_grpc import AuditServiceStub
from protos.bulk_pb2_grpc import BulkInferenceServiceStub
from protos.key_holder_pb2_grpc import KeyHolderServiceStub
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]

# States in which the owner should hold the key.
_WANTED: Final = frozenset({"pre_active", "active", "retiring", "suspended"})


@dataclass(frozen=True, slots=True)
class Channels:
    """Open channels to the three parties an owner talks to."""

    orchestrator: grpc.Channel
    key_holder: grpc.Channel
    inference_server: grpc.Channel
    # Replicas of it, asked in turn when one is away.
    others: tuple[grpc.Channel, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The owner's two private keys: one signs, one opens sealed keys."""

    signing: Ed25519PrivateKey = field(repr=False)
    sealing: SealingKey = field(repr=False)


@contextmanager
def open_client(folder: Path, model: str | None = None) -> Iterator["Client"]:
    """Connect with the identity, keys and settings in the owner's folder."""
    settings = OwnerSettings.read(folder)
    identity = load_identity(folder)
    own = OwnKeys(ensure_signing_key(folder), ensure_sealing_key(folder))
    with ExitStack() as stack:
        channels = _connect(stack, settings, identity.spiffe, folder)
        yield Client(
            settings, identity.spiffe, Keyring(folder), own, channels, model=model
        )


class Client:
    """One owner's view of the federation. Not for use by several threads at once."""

    def __init__(
        self,
        settings: OwnerSettings,
        owner: SpiffeId,
        keyring: Keyring,
        own: OwnKeys,
        channels: Channels,
        *,
        model: str | None = None,
    ) -> None:
        self.keyring = keyring
        # How many requests went over the wire, those made again included.
        self.sent = 0
        # What encrypted images travel as.
        self.datatype = settings.datatype
        # Where a shield's noise comes from.
        self.entropy: Entropy = os.urandom
        self.in_flight = settings.in_flight
        self.settings = settings
        self._owner = owner
        self._own = own
        self._model = model
        self._registry = GrpcRegistry(channels.orchestrator)
        self._keys = registry_pb2_grpc.RegistryServiceStub(channels.orchestrator)
        self._delivery = Delivery(
            owner,
            settings.key_holder.spiffe_id,
            keyring,
            own.sealing,
            KeyHolderServiceStub(channels.key_holder),
        )
        ways: list[Infer] = [
            GRPCInferenceServiceStub(channel).ModelInfer
            for channel in (channels.inference_server, *channels.others)
        ]
        self._servers = Servers(
            ways,
            Patience(unsure=settings.resend_unsure),
            settings.deadline_s,
            self._count,
        )
        # Of bulk streams; see `bulk.predict_many`.
        self.streams: Servers[Callable[..., Any]] = Servers(
            [
                BulkInferenceServiceStub(channel).InferStream
                for channel in (channels.inference_server, *channels.others)
            ],
            Patience(unsure=settings.resend_unsure),
            settings.deadline_s,
        )
        self._counting = Lock()
        self._witness = Witness(
            owner,
            own.signing,
            AuditServiceStub(channels.orchestrator),
            WitnessFile(keyring.home),
            log_key=settings.log_key,
            every_s=settings.witness_s,
        )
        self._recorded: set[bytes] = set()
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._current: tuple[float, Uses] | None = None
        self._choice = Choice(settings.candidate_share)

    def register(self) -> None:
        """Register this owner's public keys; the same ones twice are fine."""
        public = self._own.signing.public_key().public_bytes_raw()
        self._registry.register_public_keys(public, self._own.sealing.public_bytes())

    def sync_keys(self, *, every: bool = False) -> list[registry_pb2.KeyVersion]:
        """Fetch and prove what is new, and return this owner's key versions.

        What is wrong with a version that is not the primary one is logged, and it is
        tried again the next time: the version that answers now does not suffer for it.
        With `every` it is raised.
        """
        versions = self.key_versions()
        served = {version.key_id for version in versions if version.primary}
        for version in versions:
            if version.state not in _WANTED:
                continue
            try:
                self.obtain(version)
            except KeymixerError as error:
                if every or version.primary or version.key_id not in served:
                    raise
                _tell_of(version, error)
        return versions

    def obtain(self, version: registry_pb2.KeyVersion) -> None:
        """Have one key version in the keyring, and its possession proved."""
        if (version.key_id, version.version) not in self.keyring:
            holder = str(self.settings.key_holder.spiffe_id)
            signing_key = active_party(self._registry, holder).signing_key
            self._delivery.fetch(version, signing_key)
        if not version.confirmed:
            self._delivery.prove(version.key_id, version.version)

    def key_versions(self) -> list[registry_pb2.KeyVersion]:
        """This owner's key versions, as the registry has them."""

        def ask(after: int) -> registry_pb2.ListKeyVersionsResponse:
            request = registry_pb2.ListKeyVersionsRequest(after=after)
            with remote_errors("orchestrator"):
                return self._keys.ListKeyVersions(request)

        owner = str(self._owner)
        found = (version for page in pages(ask) for version in page.versions)
        return [version for version in found if version.owner == owner]

    def use(self, *, fresh: bool = False) -> Use:
        """What the next request should be made with; looked up at most so often.

        Of each ten requests or so one goes to a candidate, if there is one; with
        `fresh`, which is for those that were refused, none. Nothing is returned that
        the audit log does not contain, and nothing at all while the log is not what
        this owner saw of it before.

        Raises:
            NoKeyError: no key of this owner may be used now.
            UnknownModelError: no key of this owner is for this client's model.
            UnrecordedError: the log does not contain the issued model.
            LogForkedError, LogRolledBackError, LogKeyChangedError: see `Witness`.
        """
        uses = self._uses(fresh=fresh)
        return uses.champion if fresh else self._choice.of(uses)

    def manifest(self, model: str, version: int) -> Manifest:
        """A model version's manifest, its provider's signature verified."""
        name = (model, version)
        if name not in self._manifests:
            provider = self._registry.model_version(model, version).provider
            self._manifests[name] = manifest_from(
                self._registry, provider, model, version
            )
        return self._manifests[name]

    def any_model(self) -> tuple[registry_pb2.ModelVersion, Manifest]:
        """The newest model version of this client's model, or of the federation's only.

        For questions that must be refused: it needs no key.
        """
        request = registry_pb2.ListModelVersionsRequest(name=self._model or "")
        with remote_errors("orchestrator"):
            versions = self._keys.ListModelVersions(request).versions
        if not versions:
            raise NotFound("the registry knows no model")
        newest = versions[-1]
        return newest, self.manifest(newest.name, newest.version)

    def encrypt(self, images: Pixels) -> Blocks:
        """Encrypt images under the primary key; nothing is sent."""
        return self.use().encrypt(images, self.entropy)

    def predict(
        self,
        images: Pixels,
        batch: int = 100,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> Answers:
        """Encrypt images in this process and ask about them, some a request.

        When a key was retired between two looks at the registry, the refused request is
        made once more with its successor.
        """
        if not len(images):
            raise ShapeError("no images to ask about")
        size = self.fitting(batch)
        starts = range(0, len(images), size)
        parts: list[Answers] = []
        for part in self.predict_each(images[at : at + size] for at in starts):
            parts.append(part)
            on_progress(sum(len(each.logits) for each in parts), len(images))
        return joined(parts)

    def fitting(self, batch: int) -> int:
        """So many images are asked about at once, if `batch` do not fit a message."""
        limit = self.settings.max_message_bytes
        champion = self._uses().champion
        return max(1, min(batch, champion.fitting(limit, self.datatype)))

    def predict_each(
        self, batches: Iterable[Pixels], in_flight: int = 1
    ) -> Iterator[Answers]:
        """Ask about one batch a request, and give the answers in order.

        So many requests are on their way at a time, and no more batches are held.
        """
        waiting: deque[tuple[Pixels, Future[Answers]]] = deque()
        with ThreadPoolExecutor(in_flight, thread_name_prefix="request") as pool:
            for images in batches:
                use = self.use()
                blocks = use.encrypt(images, self.entropy)
                asked = pool.submit(self.ask, blocks, use)
                waiting.append((images, asked))
                if len(waiting) >= in_flight:
                    yield self._answered(*waiting.popleft())
            while waiting:
                yield self._answered(*waiting.popleft())

    def ask(self, blocks: Blocks, use: Use) -> Answers:
        """Ask about encrypted blocks in one request, under the key `use` names."""
        return self.send(request_for(blocks, use, self.datatype), use)

    def ask_anew(self, images: Pixels) -> Answers:
        """Ask in one request, with the successor of a key that was just refused."""
        use = self.use(fresh=True)
        return self.ask(use.encrypt(images, self.entropy), use)

    def send(self, request: pb.ModelInferRequest, use: Use) -> Answers:
        """Send a request that was made with `use`, again if that is safe."""
        with budget_errors(), remote_errors("inference server"):
            answer = ask_one_of(self._servers, request)
        return read_answer(request, answer, use, self.settings.max_message_bytes)

    def redeem(self, receipts: Sequence[Receipt]) -> list[Proof]:
        """Have each answer's record proved by the log, in order.

        Raises:
            UnrecordedError, WrongReceiptError: see `recorded.redeem`.
        """
        if receipts:
            # One checkpoint for all of them.
            self._witness.covering(max(each.audit_index for each in receipts))
        return [
            redeem(self._witness, each, self.manifest(each.model, each.model_version))
            for each in receipts
        ]

    @property
    def log_key(self) -> bytes:
        """The audit log's public key, 32 raw bytes, which this owner pinned."""
        return self._witness.covering(0).public_key

    def _uses(self, *, fresh: bool = False) -> Uses:
        now = time.monotonic()
        if self._current is not None and not fresh:
            since, uses = self._current
            if now - since < self.settings.refresh_s:
                return uses
        self._current = None
        try:
            uses = self._look()
        except NoKeyError:
            # Rotated between the two questions, the first answer has no model left.
            uses = self._look()
        self._current = (now, uses)
        return uses

    def _look(self) -> Uses:
        return self._issued_for(self._primary(self.sync_keys()))

    def _answered(self, images: Pixels, asked: Future[Answers]) -> Answers:
        """Wait for an answer; a request whose key was retired is made once more."""
        try:
            return asked.result()
        except RemoteRefusedError as error:
            if error.kind != "KeyRefused":
                raise
            return self.ask_anew(images)

    def _count(self) -> None:
        with self._counting:
            self.sent += 1

    def _primary(
        self, versions: list[registry_pb2.KeyVersion]
    ) -> registry_pb2.KeyVersion:
        models = {version.model for version in versions}
        if models and self._model not in (None, *models):
            there = ", ".join(sorted(models))
            raise UnknownModelError(f"no key for {self._model}; keys for: {there}")
        wanted = [
            version
            for version in versions
            if version.primary and self._model in (None, version.model)
        ]
        if not wanted:
            states = {f"{v.key_id} v{v.version}: {v.state}" for v in versions}
            said = ", ".join(sorted(states)) or "none was ever made"
            raise NoKeyError(f"no key may be used now ({said})")
        if len(wanted) > 1:
            several = ", ".join(sorted(version.model for version in wanted))
            raise NoKeyError(f"keys for several models; name one of them: {several}")
        return wanted[0]

    def _issued_for(self, key: registry_pb2.KeyVersion) -> Uses:
        issued = {
            one.model_version: one
            for one in self._registry.issued_models(key.key_id, key.version)
            if (one.key_id, one.key_version) == (key.key_id, key.version)
            and one.state == "live"
        }
        if not issued:
            raise NoKeyError(f"no model is issued for {key.key_id} v{key.version} yet")
        named = self._named(key.model, issued)
        champion = self._use_of(key, issued[named.get(CHAMPION, max(issued))])
        tried = named.get(CANDIDATE, champion.model_version)
        if tried == champion.model_version:
            return Uses(champion)
        return self._beside(champion, self._use_of(key, issued[tried]))

    def _use_of(
        self, key: registry_pb2.KeyVersion, issued: registry_pb2.IssuedModel
    ) -> Use:
        """Whose issue is in the log."""
        version = issued.model_version
        manifest = self.manifest(key.model, version)
        matrix = self.keyring.key(key.key_id, key.version)
        self._require_recorded(issued, manifest)
        return Use(matrix, key.model, version, manifest)

    def _beside(self, champion: Use, candidate: Use) -> Uses:
        if comparable(champion, candidate):
            return Uses(champion, candidate)
        facts = {"model": champion.model, "candidate": candidate.model_version}
        log.warning("the candidate has other classes or pictures", extra=facts)
        return Uses(champion)

    def _require_recorded(
        self, issued: registry_pb2.IssuedModel, manifest: Manifest
    ) -> None:
        """Require it of the log, and of each issued model once."""
        self._witness.refresh()
        name = issued.SerializeToString(deterministic=True)
        if name not in self._recorded:
            require_recorded(self._witness, issued, manifest)
            self._recorded.add(name)

    def _named(self, model: str, versions: Iterable[int]) -> dict[str, int]:
        """Of these versions, those with an alias; of one alone it is not asked."""
        several = list(versions)
        if len(several) == 1:
            return {}
        return {
            alias: version
            for version in several
            for alias in self._registry.model_version(model, version).aliases
        }


def ensure_sealing_key(folder: Path) -> SealingKey:
    """The key in the owner's folder; made once, even if two processes race for it."""
    path = folder / "sealing.key"
    ensure_private(path, lambda: SealingKey.generate().to_bytes())
    return SealingKey.load(path)


def _tell_of(version: registry_pb2.KeyVersion, error: KeymixerError) -> None:
    """A peer that is away is nothing unusual; all else is somebody's to look into."""
    level = logging.INFO if isinstance(error, Unavailable) else logging.WARNING
    facts = {"key_id": version.key_id, "key_version": version.version}
    said = facts | {"kind": error.kind, "why": str(error)}
    log.log(level, "a key version cannot be had", extra=said)


def _connect(
    stack: ExitStack, settings: OwnerSettings, owner: SpiffeId, folder: Path
) -> Channels:
    """Channels whose certificate is read again from the folder when it is due."""

    def channel(peer: Peer) -> grpc.Channel:
        def connect(identity: Identity, within: ExitStack) -> grpc.Channel:
            return within.enter_context(
                open_channel(
                    peer.address,
                    identity,
                    peer.spiffe_id,
                    deadline_s=settings.deadline_s,
                    max_message_bytes=settings.max_message_bytes,
                )
            )

        return stack.enter_context(
            renewing_channel(lambda: load_identity(folder), connect)
        )

    first, *others = settings.servers_for(owner)
    return Channels(
        channel(settings.orchestrator),
        channel(settings.key_holder),
        channel(first),
        tuple(channel(each) for each in others),
    )

"""`federation.yaml`: who takes part, which models, which policies; read and checked."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from core.datasets import image_size
from core.datasets.partition import Partition
from core.duration import parse_duration
from core.errors import ConfigurationError
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    SpiffeId,
)
from core.shield import ShieldPlan
from orchestrator.database_url import without_password
from orchestrator.registry.lifecycle import Period

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
TrustDomain = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,98}[a-z0-9])?$")]
Role = Literal[
    "orchestrator",
    "operator",
    "key-holder",
    "inference-server",
    "model-provider",
    "data-owner",
]
# What a database's counter holds.
MOST_IMAGES: Final = (1 << 63) - 1
# What computes in an inference server.
EngineName = Literal["auto", "onnxruntime", "openvino", "openvino-bfloat16", "torch"]
# How the answers of a model's sites become one model.
StrategyName = Literal["fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg"]
# What of a leakage card a rule may be about.
LeakageFigure = Literal[
    "missing_card", "public_embedding", "images", "blocks", "ratio", "ssim"
]
# What dual control can be asked for.
TwoOperators = Literal["issue", "revoke", "destroy", "export"]


def _seconds(text: object) -> object:
    """`10m` -> 600.0; what is not text is left to pydantic."""
    try:
        return parse_duration(text) if isinstance(text, str) else text
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _size(value: object) -> str:
    """`224`, which YAML reads as a number, or `192x256`."""
    try:
        if image_size(text := str(value)):
            return text
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    raise ValueError("expected a number of pixels, or HEIGHTxWIDTH")


def _dealt(text: str) -> str:
    try:
        kind = Partition.parse(text).kind
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if kind == "by-organisation":
        raise ValueError("a simulation deals images out: iid, or dirichlet:NUMBER")
    return text


def _shield(text: str) -> str:
    try:
        ShieldPlan.parse(text)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return text


DatabaseUrl = Annotated[str, AfterValidator(without_password)]
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
ONE_OF_EACH = (ORCHESTRATOR, KEY_HOLDER, INFERENCE_SERVER)
TWO = 2
# Events in which owners ask again and again.
_UNDER_TRAFFIC: Final = ("rotate", "under_traffic")


class Section(BaseModel):
    """A part of the file: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionOf = TypeVar("SectionOf", bound=Section)


class Organisation(Section):
    """An organisation and the roles it plays."""

    name: Name
    roles: Annotated[list[Role], Field(min_length=1)]


class ArchitectureSection(Section):
    """The shape of a ConvMixer; image size and classes come from the data."""

    hidden: Annotated[int, Field(ge=1, le=4096)] = 128
    depth: Annotated[int, Field(ge=0, le=64)] = 4
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 5
    patch_size: Annotated[int, Field(ge=1, le=64)] = 4


class TrainingSection(Section):
    """How the provider trains; the defaults suit CIFAR-10 on two cores."""

    # What only one who has all images can do.
    ALONE: ClassVar[tuple[str, ...]] = ("ema", "patience", "validation")

    epochs: Annotated[int, Field(ge=1)] = 6
    batch: Annotated[int, Field(ge=1)] = 128
    max_lr: Annotated[float, Field(gt=0)] = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    pad: Annotated[int, Field(ge=0)] = 4
    flip: bool = True
    # Images and labels mixed by a share from Beta(alpha, alpha); 0: never.
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Alone only: the decay of the averaged weights, and when to stop early.
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ImagesSection(Section):
    """What pictures are fitted to, by the trainer and by every owner's client."""

    # Pixels a side, or HEIGHTxWIDTH.
    size: Annotated[str, BeforeValidator(_size)]
    # What the shorter side is scaled to before the centre is cut out; none: what just
    # covers `size`.
    resize: Annotated[int, Field(ge=1)] | None = None

    @property
    def fitted(self) -> tuple[int, int] | None:
        """Height and width, in pixels."""
        return image_size(self.size)


class FederatedSection(Section):
    """Sites that train the model together, each with a node of its own.

    `training.epochs` are those of a site in each round.
    """

    # Parts of the provider, or whom it trusts as itself: each sees the plain model.
    sites: Annotated[list[Name], Field(min_length=2, max_length=128)]
    rounds: Annotated[int, Field(ge=1)] = 6
    strategy: StrategyName = "fedavg"
    # How a simulation deals its data out to them; in a deployment each has its own.
    partition: Annotated[str, AfterValidator(_dealt)] = "iid"
    partition_seed: Annotated[int, Field(ge=0)] = 0
    # For experiments only: who knows it and the data can train the same embedding.
    seed: Annotated[int, Field(ge=0)] | None = None
    # A simulation kills this site's node after the first round, and starts it again.
    killed_once: Name | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        _unique("federated.sites", self.sites)
        killed = {self.killed_once} if self.killed_once else set[str]()
        _known("federated.killed_once", killed, set(self.sites))
        return self


class ModelSection(Section):
    """A model and who provides it."""

    name: Name
    provider: Name
    architecture: ArchitectureSection = ArchitectureSection()
    training: TrainingSection = TrainingSection()
    # None: as the data has them.
    images: ImagesSection | None = None
    # What owners do to each block before the key: none, highpass:K, magnitude:K or
    # noise:SIGMA.
    shield: Annotated[str, AfterValidator(_shield)] = "none"
    # None: the provider trains alone.
    federated: FederatedSection | None = None
    # A release's folder, beside this file: a simulation on the images it was tested on
    # takes it in place of training. Whoever has this file has its plain embedding.
    release: Path | None = None

    @model_validator(mode="after")
    def _sites_can_train_so(self) -> Self:
        for name in TrainingSection.ALONE if self.federated else ():
            if getattr(self.training, name):
                raise ValueError(f"training.{name}: several sites cannot; leave it out")
        return self


class BudgetPolicy(Section):
    """How many images may be answered, in all or each day or month (UTC)."""

    max_images: Annotated[int, Field(ge=0, le=MOST_IMAGES)]
    period: Period = Period.TOTAL


class Grant(Section):
    """An owner may use a model."""

    owner: Name
    model: Name
    # In place of the policy's; it holds from the first time the model is granted.
    budget: BudgetPolicy | None = None


class RotationPolicy(Section):
    """When a key is due for rotation without anybody asking; empty: never."""

    # Once its primary version is as old as this, such as `30d`.
    max_age: Duration | None = None
    # Once so many images were answered under its primary version.
    max_images: Annotated[int, Field(ge=1)] | None = None
    # Every day at this time (UTC, `HH:MM`), if its version is older than that moment.
    daily_at: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] | None = None
    # Once at each of these moments, such as `2027-01-31T02:00:00Z`.
    at: list[AwareDatetime] = []


class CompromisePolicy(Section):
    """What a leaked key does to the other owners' keys for the same model."""

    suspend: Literal["model", "owner"] = "model"


class LeakageRule(Section):
    """What is done with a release whose leakage card says so, before it is issued.

    `images`, `blocks` and `ratio` (blocks for each direction of the effective rank) are
    those that were seen under every key that leads to the release's embedding. No
    number of them protects anything: docs/cards.md.
    """

    when: LeakageFigure
    # Of the last four: the rule is broken by more than this.
    above: Annotated[float, Field(ge=0)] | None = None
    # `refuse`: until an operator changes something; `fresh_release`: until a release
    # from a fresh start is the champion; `warn`: it is issued, and the log says so.
    then: Literal["warn", "refuse", "fresh_release"]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        counted = self.when not in ("missing_card", "public_embedding")
        if counted and self.above is None:
            raise ValueError(f"{self.when}: say above what")
        if not counted and self.above is not None:
            raise ValueError(f"{self.when}: leave `above` out, there is no number")
        if self.then == "fresh_release" and self.when in ("missing_card", "ssim"):
            raise ValueError(f"{self.when}: a fresh start does not mend it")
        return self


class LimitPolicy(Section):
    """How much may be asked of one inference server; what is left out has no limit."""

    # Of this organisation; empty: of every owner that is not named elsewhere.
    owner: Name | None = None
    images_per_s: Annotated[float, Field(gt=0)] | None = None
    # How many images may come at once after a pause; by default those of one second.
    burst: Annotated[int, Field(ge=1)] | None = None
    # In one request.
    max_images: Annotated[int, Field(ge=1)] | None = None


class Policies(Section):
    """What is allowed, by whom, when keys rotate, and how long things may take."""

    grants: list[Grant] = []
    # The budget of every new grant that names none of its own; none: no limit.
    budget: BudgetPolicy | None = None
    # How long a retired key version is served beside its successor.
    rotation_overlap_s: Annotated[float, Field(ge=0)] = 600.0
    # How long the destruction of a key version can be taken back.
    destroy_window_s: Annotated[float, Field(ge=0)] = 7 * 24 * 3600.0
    rotation: RotationPolicy = RotationPolicy()
    compromise: CompromisePolicy = CompromisePolicy()
    # What two different operators must want.
    dual_control: list[TwoOperators] = []
    # The operators' organisations that may approve; empty: every operator.
    approvers: list[Name] = []
    # A server that could not learn the state of keys for so long stops serving.
    max_staleness_s: Annotated[float, Field(ge=1)] = 5.0
    limits: list[LimitPolicy] = []
    # Of each owner's requests, how many ask the version that is the `candidate`.
    candidate_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Whether a model may be issued whose plain embedding is public: keys for it hide
    # nothing from the server. See docs/import.md.
    allow_public_embeddings: bool = False
    # What a release's leakage card must say to be issued; all that are broken count.
    leakage: list[LeakageRule] = []
    # What owners' encrypted images travel as; none: each owner's own choice, float32.
    datatype: Literal["float32", "float16", "uint8"] | None = None

    def budget_for(self, organisation: str, model: str) -> BudgetPolicy | None:
        """What an owner may have from when a model is granted to it; None: no limit."""
        named = {(grant.owner, grant.model): grant.budget for grant in self.grants}
        return named.get((organisation, model)) or self.budget


class Serving(Section):
    """How the inference server computes."""

    # `auto` measures those in float32 and takes the fastest.
    engine: EngineName = "onnxruntime"
    # How many processes serve, of one name; each with a folder of its own.
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    # Where it serves Prometheus metrics, such as `127.0.0.1:9464`, and each replica on
    # the next port; empty: nowhere.
    metrics: str = ""
    # Where it sends traces by OTLP over HTTP, such as `http://127.0.0.1:4318`.
    tracing: str = ""


class Rotate(Section):
    """Rotates an owner's key while the owner keeps asking."""

    event: Literal["rotate"]
    owner: Name


class Revoke(Section):
    """Revokes an owner's key; its next request must be refused."""

    event: Literal["revoke"]
    owner: Name
    reason: str = "revoked"


class AskWithKeyOf(Section):
    """An owner asks with another owner's key; it must be refused."""

    event: Literal["ask_with_key_of"]
    owner: Name
    other: Name


class CallWithoutCertificate(Section):
    """Somebody without a certificate calls; the handshake must fail."""

    event: Literal["call_without_certificate"]


class RotateAll(Section):
    """Rotates every key at once, as soon as earlier rotations have ended."""

    event: Literal["rotate_all"]


class Suspend(Section):
    """Suspends an owner's key; it is refused until it is resumed."""

    event: Literal["suspend"]
    owner: Name
    reason: str = "suspended"


class Resume(Section):
    """Resumes an owner's suspended key."""

    event: Literal["resume"]
    owner: Name


class Release(Section):
    """Registers another version of the model, and makes it the candidate.

    It was trained before anybody asked; what is left out of its settings is as the
    model has it.
    """

    event: Literal["release"]
    architecture: ArchitectureSection = ArchitectureSection()
    training: TrainingSection = TrainingSection()

    def of(self, model: ModelSection) -> ModelSection:
        """The model as this release trains it."""
        changed = {
            "architecture": _overlaid(model.architecture, self.architecture),
            "training": _overlaid(model.training, self.training),
        }
        return model.model_copy(update=changed)


class Promote(Section):
    """Makes the candidate the champion."""

    event: Literal["promote"]


class RollBack(Section):
    """Makes the champion the candidate, too: nothing is tried any more."""

    event: Literal["roll_back"]


class Wait(Section):
    """Lets the owners go on asking until all of this is true."""

    event: Literal["wait"]
    seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    # So many requests were made since the first order.
    requests: Annotated[int, Field(ge=0)] = 0
    # So many answers of the newest release has every owner that asks.
    tried: Annotated[int, Field(ge=0)] = 0
    # `live`: every new version of a key answers; `rotated`: and every former one is
    # refused; `destroyed`: and every seed that has ended is gone. `issued`: the newest
    # release is live under every key in use.
    until: Literal["live", "rotated", "destroyed", "issued"] | None = None


TrafficEvent = Annotated[
    Rotate
    | RotateAll
    | Suspend
    | Resume
    | Revoke
    | Release
    | Promote
    | RollBack
    | Wait,
    Field(discriminator="event"),
]


class UnderTraffic(Section):
    """Owners ask without pause while keys and models change, and no request fails."""

    event: Literal["under_traffic"]
    # Who asks; empty: every owner that may.
    owners: list[Name] = []
    # Images a request; None: as many as the simulation's `batch`.
    batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    events: Annotated[list[TrafficEvent], Field(min_length=1)]


Event = Annotated[
    Rotate | Revoke | AskWithKeyOf | CallWithoutCertificate | UnderTraffic,
    Field(discriminator="event"),
]


def _flat(timeline: Sequence[Event]) -> Iterator[Event | TrafficEvent]:
    for event in timeline:
        yield event
        if isinstance(event, UnderTraffic):
            yield from event.events


class Simulation(Section):
    """What a simulation adds: data, how it is dealt out, and what happens when."""

    data: str = "cifar10"
    images: Annotated[int, Field(ge=1)] = 10_000
    wrong_key_images: Annotated[int, Field(ge=1)] = 1_000
    shares: dict[Name, Annotated[float, Field(gt=0, le=1)]] = {}
    batch: Annotated[int, Field(ge=1, le=4096)] = 100
    timeline: list[Event] = []

    @property
    def releases(self) -> list[Release]:
        """What the timeline releases, in its order."""
        return [each for each in _flat(self.timeline) if isinstance(each, Release)]

    @model_validator(mode="after")
    def _one_release_at_a_time(self) -> Self:
        tried = False
        for each in _flat(self.timeline):
            if isinstance(each, Release) and tried:
                raise ValueError("timeline: release: another one is still tried")
            if isinstance(each, Promote | RollBack) and not tried:
                raise ValueError(f"timeline: {each.event}: no release is tried")
            if isinstance(each, Release | Promote | RollBack):
                tried = isinstance(each, Release)
        return self


class Federation(Section):
    """The whole file."""

    federation: TrustDomain
    # Where registry and log are kept; none: a file in the orchestrator's folder.
    database: DatabaseUrl | None = None
    organisations: list[Organisation]
    models: Annotated[list[ModelSection], Field(min_length=1)]
    policies: Policies = Policies()
    serving: Serving = Serving()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        _unique("organisations", [o.name for o in self.organisations])
        _unique("models", [m.name for m in self.models])
        for role in ONE_OF_EACH:
            _exactly_one(role, self.organisations_with(role))
        operators = self.organisations_with(OPERATOR)
        _at_least_one(OPERATOR, operators)
        _enough_approvers(self.policies, operators)
        owners = set(self.organisations_with(DATA_OWNER))
        limited = [limit.owner or "" for limit in self.policies.limits]
        _unique("policies.limits", limited)
        _known("policies.limits", set(limited) - {""}, owners)
        providers = set(self.organisations_with(MODEL_PROVIDER))
        models = {m.name for m in self.models}
        _known("models.provider", {m.provider for m in self.models}, providers)
        _known("policies.grants.owner", {g.owner for g in self.policies.grants}, owners)
        _known("policies.grants.model", {g.model for g in self.policies.grants}, models)
        _known("simulation.shares", set(self.simulation.shares), owners)
        _known("simulation.timeline", _owners_named(self.simulation.timeline), owners)
        _releasable(self.models[0], self.simulation.releases)
        _comparable(self.models[0], self.simulation.timeline)
        return self

    def organisations_with(self, role: str) -> list[str]:
        """Names of the organisations that play `role`, in the file's order."""
        return [o.name for o in self.organisations if role in o.roles]

    def spiffe(self, organisation: str, role: str) -> SpiffeId:
        """The identity of an organisation in one of its roles."""
        return SpiffeId(self.federation, organisation, role)

    def only(self, role: str) -> SpiffeId:
        """The identity of the one party that plays `role`."""
        (organisation,) = self.organisations_with(role)
        return self.spiffe(organisation, role)

    def first(self, role: str) -> SpiffeId:
        """The identity of the first party of the file that plays `role`."""
        return self.spiffe(self.organisations_with(role)[0], role)

    def parties(self) -> list[SpiffeId]:
        """Every identity of the federation, in the file's order."""
        return [self.spiffe(o.name, r) for o in self.organisations for r in o.roles]


def read_federation(path: Path) -> Federation:
    """Read and check a federation file.

    Raises:
        ConfigurationError: the file is missing, not YAML, or a field is wrong; the
            message names the field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: expected fields such as `federation:`")
        federation = Federation.model_validate(content)
        return _found_from(path.parent, federation)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {readable(error)}") from error


def _found_from(folder: Path, federation: Federation) -> Federation:
    """Have releases that are named beside the file found from anywhere."""
    models = [
        model.model_copy(update={"release": (folder / model.release).resolve()})
        if model.release
        else model
        for model in federation.models
    ]
    return federation.model_copy(update={"models": models})


def readable(error: ValidationError) -> str:
    found = (
        ".".join(map(str, problem["loc"])) + f": {problem['msg']}"
        for problem in error.errors()
    )
    # What is wrong with the file as a whole has no place, and pydantic's own prefix.
    return "; ".join(each.removeprefix(": Value error, ") for each in found)


def _unique(where: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{where}: {twice} named twice")


def _exactly_one(role: str, found: list[str]) -> None:
    if len(found) != 1:
        raise ValueError(f"exactly one organisation must be {role}, got {found}")


def _at_least_one(role: str, found: list[str]) -> None:
    if not found:
        raise ValueError(f"at least one organisation must be {role}, got none")


def _enough_approvers(policies: Policies, operators: list[str]) -> None:
    """Two must be able to agree; otherwise nothing under dual control is ever done."""
    _unique("policies.approvers", policies.approvers)
    _known("policies.approvers", set(policies.approvers), set(operators))
    able = policies.approvers or operators
    if policies.dual_control and len(able) < TWO:
        raise ValueError(
            f"policies.dual_control: {', '.join(policies.dual_control)} needs two "
            f"operators who may approve, got {able}; let another organisation be "
            "operator, or leave policies.approvers out"
        )


def _known(where: str, names: set[str], known: set[str]) -> None:
    if unknown := names - known:
        raise ValueError(f"{where}: {sorted(unknown)} not among {sorted(known)}")


def _overlaid(whole: SectionOf, changes: SectionOf) -> SectionOf:
    """The one, with what was said in the other."""
    return whole.model_copy(update=changes.model_dump(exclude_unset=True))


def _releasable(model: ModelSection, releases: Sequence[Release]) -> None:
    """A new version must fit the keys, and be trained by the provider alone."""
    if releases and model.federated is not None:
        raise ValueError("simulation.timeline: release: the model has sites")
    for release in releases:
        mine, its = model.architecture, release.of(model).architecture
        if mine.patch_size != its.patch_size:
            raise ValueError(
                "simulation.timeline: release: the keys are for patches of "
                f"{mine.patch_size}, not {its.patch_size}"
            )


def _comparable(model: ModelSection, timeline: Sequence[Event]) -> None:
    """Under traffic each answer is held against the plain model's for its images.

    With noise there is no such answer: it is another one every time.
    """
    busy = [event.event for event in timeline if event.event in _UNDER_TRAFFIC]
    if busy and ShieldPlan.parse(model.shield).kind == "noise":
        raise ValueError(
            f"simulation.timeline: {busy[0]}: the noise of {model.shield} gives every "
            "request another answer, so that answers under traffic cannot be "
            "compared; take highpass:K or magnitude:K, or leave it out"
        )


def _owners_named(timeline: Sequence[Event]) -> set[str]:
    named: set[str] = set()
    for event in _flat(timeline):
        if isinstance(event, UnderTraffic):
            named |= {*event.owners}
        names = (getattr(event, field, None) for field in ("owner", "other"))
        named |= {name for name in names if name is not None}
    return named

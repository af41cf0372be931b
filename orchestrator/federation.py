"""`federation.yaml`: who takes part, which models, which policies; read and checked."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
ONE_OF_EACH = (ORCHESTRATOR, OPERATOR, KEY_HOLDER, INFERENCE_SERVER)


class Section(BaseModel):
    """A part of the file: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    epochs: Annotated[int, Field(ge=1)] = 6
    batch: Annotated[int, Field(ge=1)] = 128
    max_lr: Annotated[float, Field(gt=0)] = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    pad: Annotated[int, Field(ge=0)] = 4
    flip: bool = True


class ModelSection(Section):
    """A model and who provides it."""

    name: Name
    provider: Name
    architecture: ArchitectureSection = ArchitectureSection()
    training: TrainingSection = TrainingSection()


class Grant(Section):
    """An owner may use a model."""

    owner: Name
    model: Name


class Policies(Section):
    """What is allowed, and how long a retired key overlaps its successor."""

    grants: list[Grant] = []
    rotation_overlap_s: Annotated[float, Field(ge=0)] = 600.0


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


Event = Annotated[
    Rotate | Revoke | AskWithKeyOf | CallWithoutCertificate,
    Field(discriminator="event"),
]


class Simulation(Section):
    """What a simulation adds: data, how it is dealt out, and what happens when."""

    data: str = "cifar10"
    images: Annotated[int, Field(ge=1)] = 10_000
    wrong_key_images: Annotated[int, Field(ge=1)] = 1_000
    shares: dict[Name, Annotated[float, Field(gt=0, le=1)]] = {}
    batch: Annotated[int, Field(ge=1, le=4096)] = 100
    timeline: list[Event] = []


class Federation(Section):
    """The whole file."""

    federation: TrustDomain
    organisations: list[Organisation]
    models: Annotated[list[ModelSection], Field(min_length=1)]
    policies: Policies = Policies()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        _unique("organisations", [o.name for o in self.organisations])
        _unique("models", [m.name for m in self.models])
        for role in ONE_OF_EACH:
            _exactly_one(role, self.organisations_with(role))
        owners = set(self.organisations_with(DATA_OWNER))
        providers = set(self.organisations_with(MODEL_PROVIDER))
        models = {m.name for m in self.models}
        _known("models.provider", {m.provider for m in self.models}, providers)
        _known("policies.grants.owner", {g.owner for g in self.policies.grants}, owners)
        _known("policies.grants.model", {g.model for g in self.policies.grants}, models)
        _known("simulation.shares", set(self.simulation.shares), owners)
        _known("simulation.timeline", _owners_named(self.simulation.timeline), owners)
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
        return Federation.model_validate(content)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_readable(error)}") from error


def _readable(error: ValidationError) -> str:
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


def _known(where: str, names: set[str], known: set[str]) -> None:
    if unknown := names - known:
        raise ValueError(f"{where}: {sorted(unknown)} not among {sorted(known)}")


def _owners_named(timeline: list[Event]) -> set[str]:
    fields = ("owner", "other")
    named = {getattr(event, field, None) for event in timeline for field in fields}
    return {name for name in named if name is not None}

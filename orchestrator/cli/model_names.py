"""Which version a name means: `cells`, `cells:3`, or `cells@champion`, now or then.

The registry knows where an alias points now; where it pointed, the audit log says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from core.errors import InvalidInput, NotFound
from orchestrator.audit.reading import record_of
from orchestrator.cli.times import when
from orchestrator.operator import Operator
from protos import audit_pb2, registry_pb2

_NAME: Final = re.compile(
    r"(?P<model>[^:@]+)(?::(?P<version>[0-9]{1,9})|@(?P<alias>[^:@]+))?"
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a person writes: a model and its version, or an alias; else the newest."""

    model: str
    version: int = 0
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME`, `NAME:VERSION` or `NAME@ALIAS`, or raise `InvalidInput`."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise InvalidInput(
                f"{text!r:.60}: expected NAME, NAME:VERSION or NAME@ALIAS"
            )
        return cls(
            found["model"], int(found["version"] or 0), str(found["alias"] or "")
        )


@dataclass(frozen=True, slots=True)
class Move:
    """An alias was moved, as the log's record `index` has it."""

    index: int
    at_ms: int
    alias: str
    version: int
    # The SPIFFE ID of who moved it.
    actor: str


def moves(operator: Operator, model: str, until_ms: int | None = None) -> list[Move]:
    """All moves of a model's aliases, oldest first.

    Args:
        operator: Asks the orchestrator.
        model: The model's name.
        until_ms: Only those up to this moment; None: all.
    """
    # The log's bound is exclusive, and 0 is none.
    end_ms = 0 if until_ms is None else until_ms + 1
    wanted = audit_pb2.ListEntriesRequest(
        kind="alias.moved", model=model, until_ms=end_ms
    )
    return [_move(entry) for entry in operator.find_entries(wanted)]


def resolve(
    operator: Operator, name: ModelName, as_of_ms: int | None = None
) -> registry_pb2.ModelVersion:
    """The version that a name means, or meant at a moment.

    Raises:
        NotFound: there is no such model, version or alias, or there was none then.
    """
    versions = _versions(operator, name.model, as_of_ms)
    number = name.version or _aliased(operator, name, versions, as_of_ms)
    found = next((each for each in versions if each.version == number), None)
    if found is None:
        there = ", ".join(str(each.version) for each in versions)
        raise NotFound(
            f"{name.model} has no version {number}{_then(as_of_ms)}; there are {there}"
        )
    return found


def _versions(
    operator: Operator, model: str, as_of_ms: int | None
) -> list[registry_pb2.ModelVersion]:
    """Those of a model that there are, or were then; oldest first, and at least one."""
    known = operator.models(model)
    if not known:
        there = ", ".join(sorted({each.name for each in operator.models()}))
        raise NotFound(f"{model} is no model here; there are {there or 'none'}")
    if as_of_ms is None:
        return known
    versions = [each for each in known if each.created_at_ms <= as_of_ms]
    if not versions:
        raise NotFound(
            f"{model} had no version at {when(as_of_ms)}; its first is of "
            f"{when(known[0].created_at_ms)}, UTC"
        )
    return versions


def _aliased(
    operator: Operator,
    name: ModelName,
    versions: Sequence[registry_pb2.ModelVersion],
    as_of_ms: int | None,
) -> int:
    """The version that an alias names; the newest one if there is no alias."""
    if not name.alias:
        return versions[-1].version
    if as_of_ms is None:
        pointed = {alias: v.version for v in versions for alias in v.aliases}
    else:
        past = moves(operator, name.model, as_of_ms)
        pointed = {each.alias: each.version for each in past}
    if name.alias not in pointed:
        there = ", ".join(sorted(pointed)) or "none"
        asked = f"{name.model} has no alias {name.alias}{_then(as_of_ms)}"
        raise NotFound(f"{asked}; there are {there}")
    return pointed[name.alias]


def _then(as_of_ms: int | None) -> str:
    return "" if as_of_ms is None else f" at {when(as_of_ms)}"


def _move(entry: audit_pb2.AuditEntry) -> Move:
    record = record_of(entry)
    said = record["subject"]
    return Move(
        entry.index,
        record["time_ms"],
        str(said["alias"]),
        int(said["model_version"]),
        record["actor"],
    )

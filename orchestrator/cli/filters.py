"""Which records `audit list` and `audit tail` show: the options both of them have."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from core.errors import KeymixerError
from orchestrator.cli.times import moment_ms, now_ms

if TYPE_CHECKING:
    from orchestrator.cli.session import Session
    from protos.audit_pb2 import ListEntriesRequest

_SPIFFE: Final = "spiffe://"


def _moment(text: str) -> str:
    """The moment in milliseconds, as text; what is none is wrong usage."""
    try:
        return str(moment_ms(text, now_ms())) if text else ""
    except KeymixerError as error:
        raise typer.BadParameter(str(error)) from error


Since = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        callback=_moment,
        help="Not before: an ISO 8601 time, or a duration ago such as 2h.",
    ),
]
Until = Annotated[
    str, typer.Option(metavar="TIME", callback=_moment, help="Before; as --since.")
]


def span(since: str, until: str) -> dict[str, int]:
    """The fields of a question that say when."""
    return {"since_ms": int(since or 0), "until_ms": int(until or 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a record must fit, each field an option; an empty one is fitted by all."""

    owner: Annotated[
        str, typer.Option(help="Only records that name this data owner.")
    ] = ""
    organisation: Annotated[
        str, typer.Option(help="Only by, or about, one of its parties.")
    ] = ""
    model: Annotated[str, typer.Option(help="Only about this model.")] = ""
    key: Annotated[str, typer.Option(help="Only about the key of this id.")] = ""
    kind: Annotated[str, typer.Option(help="Only records of this kind.")] = ""
    since: Since = ""
    until: Until = ""
    refused: Annotated[
        bool, typer.Option("--refused", help="Only refusals, of calls and of answers.")
    ] = False

    def question(self, session: "Session", **more: int) -> "ListEntriesRequest":
        """Ask for what fits; `more` is about the page."""
        return wanted(
            session,
            self.owner,
            organisation=self.organisation,
            model=self.model,
            key_id=self.key,
            kind=self.kind,
            refused=self.refused,
            **span(self.since, self.until),
            **more,
        )


def wanted(session: "Session", owner: str, **filters: Any) -> "ListEntriesRequest":
    """The question; an owner is named by its organisation, its key's id or itself."""
    from protos.audit_pb2 import ListEntriesRequest

    if owner and not owner.startswith(_SPIFFE):
        owner = session.key(owner, "").owner
    return ListEntriesRequest(owner=owner, **filters)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each filter, where its parameter `filters` is."""
    options = inspect.signature(Filters).parameters

    @wraps(command)
    def run(**given: Any) -> None:
        filters = Filters(**{name: given.pop(name) for name in options})
        command(filters=filters, **given)

    own = inspect.signature(command).parameters.values()
    places = [options.values() if each.name == "filters" else [each] for each in own]
    parameters = [each for place in places for each in place]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run

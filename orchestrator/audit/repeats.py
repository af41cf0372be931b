"""What a reporter called its records: by that name, one reported again is found."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import bindparam, select

from core.database.fixed import Fixed
from core.errors import InvalidInput
from orchestrator.audit.pending import pending
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.registry.models import AuditEventId, AuditLeaf
from orchestrator.registry.store import Change

_LONGEST: Final = 128
_NAMED: Final = Fixed(
    select(AuditEventId.event_id, AuditLeaf.body)
    .join(AuditLeaf, AuditEventId.index == AuditLeaf.index)
    .where(
        AuditEventId.actor == bindparam("actor"),
        AuditEventId.event_id.in_(bindparam("names", expanding=True)),
    )
)


class Names:
    """The names that an actor gives the records it reports in one transaction.

    An empty name is none: what has no name is recorded each time.

    Args:
        change: The transaction.
        names: All that it is going to ask for.

    Raises:
        InvalidInput: one is too long, or cannot be printed.
    """

    def __init__(self, change: Change, names: Iterable[str]) -> None:
        self._change = change
        self._bodies: dict[str, bytes] = {}
        self._look({name for name in names if name})

    def look_up(self, name: str) -> Entry | None:
        """`recorded`, of a name that was not expected."""
        self._look({name})
        return self.recorded(name)

    def recorded(self, name: str) -> Entry | None:
        """Return the record that the actor gave this name to, as it is stored."""
        mine = pending(self._change.session)
        body = (mine and mine.named(self._change.actor, name)) or self._bodies.get(name)
        return parse_entry(body) if body else None

    def remember(self, name: str, index: int) -> None:
        """Give a record of this transaction its name."""
        if not name:
            return
        if (mine := pending(self._change.session)) is None:
            raise InvalidInput("only a record of this transaction can be named")
        mine.name(self._change.actor, name, index)

    def _look(self, names: set[str]) -> None:
        for name in names:
            _check(name)
        if names:
            given = {"actor": self._change.actor, "names": sorted(names)}
            self._bodies |= dict(_NAMED.rows(self._change.session, given))


def _check(name: str) -> None:
    if len(name) > _LONGEST:
        raise InvalidInput(f"event_id: at most {_LONGEST} characters")
    # It is a column of its own, and a database may refuse what cannot be printed: at
    # the commit, in which others share.
    if not name.isprintable():
        raise InvalidInput("event_id: expected characters that can be printed")

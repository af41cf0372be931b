"""Statements that are asked all the time: compiled once, run on the driver's cursor.

SQLAlchemy finds a statement in its cache, makes a context for it and wraps its rows
each time it runs, which takes several times what the database takes for a row found by
its key. What is asked for every answer skips that; the SQL is SQLAlchemy's all the
same, for whichever database it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

T = TypeVar("T")

SQLStatement: TypeAlias = Select[*tuple[Any, ...]] | Insert | Update | Delete

Given: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = list[tuple[Any, ...]]

# In a session: its `Driver`.
_DRIVER: Final = "keymixer_driver"


class Driver(NamedTuple):
    """A connection of the driver's, and which SQL it understands."""

    connection: Any
    dialect: Dialect


class _Text(NamedTuple):
    """SQL, and the names of its parameters in their order; None: they go by name."""

    sql: str
    order: tuple[str, ...] | None
    # Parameters that the statement itself gives a value, such as a limit.
    constants: Given

    def bound(self, given: Given) -> Any:
        """The parameters as the driver takes them."""
        values = {**self.constants, **given}
        if self.order is None:
            return values
        return tuple([values[name] for name in self.order])


class Fixed:
    """One statement; many threads may run it at once.

    Values go to the driver as they are: numbers, text, bytes and None. A parameter
    that expands takes a list, which is filled up with its last value to a power of two,
    so that there are few texts to prepare.

    Args:
        statement: With a `bindparam` for everything that changes.
        columns: Of an insert: those that every row has.
    """

    def __init__(self, statement: SQLStatement, columns: Sequence[str] = ()) -> None:
        self._statement = statement
        self._columns = list(columns) or None
        self._texts: dict[tuple[str, tuple[tuple[str, int], ...]], _Text] = {}

    def rows(self, session: Session, given: Given) -> Rows:
        """Return what a query finds."""
        return self.rows_on(driver_of(session), given)

    def rows_on(self, driver: Driver, given: Given) -> Rows:
        """`rows`, on a connection that no session has."""
        lists = {k: _padded(v) for k, v in given.items() if isinstance(v, list)}
        text = self._text(driver.dialect, given, lists)
        bound = text.bound({**given, **_spelt(lists)})

        def fetch(cursor: Any) -> Rows:
            cursor.execute(text.sql, bound)
            found: Rows = cursor.fetchall()
            return found

        return _on_cursor(driver, fetch)

    def run(self, session: Session, rows: Sequence[Given]) -> None:
        """Change something, once for each row; there is at least one."""
        driver = driver_of(session)
        text = self._text(driver.dialect, rows[0], {})
        bound = [text.bound(row) for row in rows]
        if len(bound) == 1:
            _on_cursor(driver, lambda cursor: cursor.execute(text.sql, bound[0]))
        else:
            _on_cursor(driver, lambda cursor: cursor.executemany(text.sql, bound))

    def _text(self, dialect: Dialect, given: Given, lists: Given) -> _Text:
        lengths = tuple((name, len(values)) for name, values in lists.items())
        key = (dialect.name, lengths)
        if (known := self._texts.get(key)) is None:
            known = self._texts[key] = self._compiled(dialect, {**given, **lists})
        return known

    def _compiled(self, dialect: Dialect, given: Given) -> _Text:
        # Which values they are is nothing to the text, but how many.
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        state = compiled.construct_expanded_state(given)
        asked = {*given, *_spelt(given)}
        constants = {k: v for k, v in state.parameters.items() if k not in asked}
        order = tuple(state.positiontup or ()) if compiled.positional else None
        return _Text(state.statement, order, constants)


def driver_of(session: Session) -> Driver:
    """The driver's connection, on which the session's transaction has begun."""
    known: Driver | None = session.info.get(_DRIVER)
    if known is None:
        connection = session.connection()
        driver = connection.connection.dbapi_connection
        known = session.info[_DRIVER] = Driver(driver, connection.dialect)
    return known


def as_usual(error: Exception, dialect: Dialect) -> Exception:
    """What SQLAlchemy would raise for an error of the driver's, without the values."""
    kind = dialect.loaded_dbapi.Error
    return DBAPIError.instance(
        None, None, error, kind, hide_parameters=True, dialect=dialect
    )


def _on_cursor(driver: Driver, work: Callable[[Any], T]) -> T:
    cursor = driver.connection.cursor()
    try:
        return work(cursor)
    except driver.dialect.loaded_dbapi.Error as error:
        raise as_usual(error, driver.dialect) from error
    finally:
        cursor.close()


def _padded(values: list[Any]) -> list[Any]:
    if not values:
        return values
    length = 1 << (len(values) - 1).bit_length()
    return values + values[-1:] * (length - len(values))


def _spelt(given: Given) -> dict[str, Any]:
    """Each value by the name that SQLAlchemy gives it in a list that is expanded."""
    return {
        f"{name}_{number}": value
        for name, values in given.items()
        if isinstance(values, list)
        for number, value in enumerate(values, 1)
    }

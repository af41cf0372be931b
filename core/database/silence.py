"""How long each side of a connection to a server believes in the other without a sign.

A network that is cut may keep every connection open: nothing comes, and nothing fails.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Self

from sqlalchemy import URL

from core.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """For how long each side bears the other's silence, in seconds.

    Args:
        answer_s: We, for the next byte of an answer.
        idle_s: The server, in the midst of a change, for our next statement. Then it
            takes the change back, and another process may write: less than a writer
            waits for others.
    """

    answer_s: float = 4.0
    idle_s: float = 3.0

    @classmethod
    def taken_from(cls, url: URL) -> tuple[Self, URL]:
        """Return what the query of a URL says of it, and the URL without that.

        Raises:
            ConfigurationError: a value is no duration.
        """
        said = {
            name: _seconds(url, name) for name in cls.__slots__ if name in url.query
        }
        return cls(**said), url.difference_update_query(said)


def _seconds(url: URL, name: str) -> float:
    try:
        value = float(str(url.query[name]))
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} in the database's URL: expected seconds")
    return value

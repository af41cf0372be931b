"""Where registry and log are kept: a URL that may name a secret, and holds none."""

import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from core.errors import ConfigurationError

_NAMED: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BACKENDS: Final = ("sqlite", "postgresql")


def without_password(url: str) -> str:
    """Return a URL that is fit for a file that others may read.

    Raises:
        ValueError: it holds a password, or names no database that we know; the
            message quotes nothing of it.
    """
    if _NAMED.fullmatch(url):
        return url
    scheme = url.partition("://")[0].partition("+")[0]
    if "://" not in url or scheme not in _BACKENDS:
        raise ValueError("expected postgresql://HOST/NAME, sqlite:///FILE or ${NAME}")
    if not _NAMED.fullmatch(urlsplit(url).password or "${NONE}"):
        raise ValueError("no password here: write ${NAME}, or use PGPASSWORD or pgpass")
    return url


def filled_in(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Put in the values of the variables that a URL names, such as `${PASSWORD}`.

    One that is the whole URL is taken as it is; within a URL a value may hold any
    character.

    Raises:
        ConfigurationError: a variable is not set.
    """
    if whole := _NAMED.fullmatch(url):
        return _value(whole[1], environment)
    return _NAMED.sub(lambda named: quote(_value(named[1], environment), safe=""), url)


def _value(name: str, environment: Mapping[str, str]) -> str:
    if not environment.get(name):
        raise ConfigurationError(f"database: {name} is not set in the environment")
    return environment[name]

"""A database's URL in a file that others may read: no password, but where it is."""

import pytest
from sqlalchemy import make_url

from core.errors import ConfigurationError
from orchestrator.database_url import filled_in, without_password

AWKWARD = "p@ss:w/rd?#%20"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://keymixer@db.example/keymixer",
        "postgresql+psycopg://keymixer@db.example:5433/keymixer?sslmode=verify-full",
        "postgresql://keymixer@/keymixer?host=/run/postgresql",
        "postgresql://keymixer:${DB_PASSWORD}@db.example/keymixer",
        "sqlite:////srv/keymixer/registry.db",
        "${DATABASE_URL}",
    ],
)
def test_a_url_without_a_password_stays_as_it_is(url: str) -> None:
    assert without_password(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://keymixer:secret@db.example/keymixer",
        "postgresql://keymixer:${HALF}secret@db.example/keymixer",
        "postgresql+psycopg://keymixer:secret@/keymixer?host=/run/postgresql",
        "mysql://db.example/secret",
        "secret.db",
        "",
    ],
)
def test_a_password_or_another_database_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{NAME\}") as caught:
        without_password(url)

    assert "secret" not in str(caught.value)


def test_whatever_a_password_is_made_of_arrives() -> None:
    url = filled_in("postgresql://k:${PW}@db/${NAME}", {"PW": AWKWARD, "NAME": "x"})
    read = make_url(url)

    assert (read.username, read.password) == ("k", AWKWARD)
    assert (read.host, read.database) == ("db", "x")


def test_a_whole_url_is_taken_as_it_is() -> None:
    url = "postgresql://k:a%2Fb@db/x"

    assert filled_in("${URL}", {"URL": url}) == url


@pytest.mark.parametrize("url", ["${URL}", "postgresql://k:${URL}@db/x"])
@pytest.mark.parametrize("environment", [{}, {"URL": ""}])
def test_a_variable_that_is_not_set_is_named(
    url: str, environment: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError, match="URL is not set"):
        filled_in(url, environment)

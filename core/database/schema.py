"""Bring a database's tables to the newest schema, with Alembic."""

from pathlib import Path

from alembic import command, context
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, MetaData

from core.errors import SchemaUnknown


def upgrade(writer: Engine, folder: Path) -> None:
    """Apply the migrations in `folder` that the database has not seen, or none.

    Raises:
        SchemaUnknown: the database names a revision that `folder` does not hold.
    """
    try:
        with writer.begin() as connection:
            command.upgrade(migrations(folder, connection), "head")
    except CommandError as error:
        raise SchemaUnknown(str(error)) from error


def migrations(
    folder: Path, connection: Connection | None = None, *, dialect: str = ""
) -> Config:
    """Return Alembic's configuration: for `connection`, or to render for `dialect`."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["dialect"] = dialect
    return config


def run_migrations(tables: MetaData) -> None:
    """Run or render the migrations; a folder's `env.py` does no more than call this."""
    attributes = context.config.attributes
    if context.is_offline_mode():
        context.configure(
            dialect_name=attributes["dialect"],
            target_metadata=tables,
            literal_binds=True,
        )
    else:
        context.configure(connection=attributes["connection"], target_metadata=tables)
    with context.begin_transaction():
        context.run_migrations()

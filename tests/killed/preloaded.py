"""Everything that the servers load, loaded once; they are forked from what did it."""

from importlib import import_module
from typing import Final

from sqlalchemy.orm import configure_mappers

from tests.killed.launcher import MODULES

_LATER: Final = (
    "parties.inference_server.engines.onnxruntime_engine",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)

for name in (*MODULES.values(), *_LATER):
    import_module(name)
configure_mappers()

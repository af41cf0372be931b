"""Run or render the migrations of the key holder's own database."""

from core.database.schema import run_migrations
from parties.key_holder.tables import Base

run_migrations(Base.metadata)

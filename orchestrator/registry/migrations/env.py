"""Run or render the registry's migrations."""

from core.database.schema import run_migrations
from orchestrator.registry.models import Base

run_migrations(Base.metadata)

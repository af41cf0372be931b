"""Run or render the migrations; `orchestrator.registry.database` builds the context."""

from alembic import context

from orchestrator.registry.models import Base

config = context.config

if context.is_offline_mode():
    context.configure(
        dialect_name=config.attributes["dialect"],
        target_metadata=Base.metadata,
        literal_binds=True,
    )
else:
    context.configure(
        connection=config.attributes["connection"], target_metadata=Base.metadata
    )

with context.begin_transaction():
    context.run_migrations()

"""The Flower ServerApp, as Flower's simulation and deployment runtimes start it.

Flower finds `app` here by `[tool.flwr.app.components]` in `pyproject.toml`; the run's
configuration is a plan, and `folder`, the provider's own folder on this machine.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from core.errors import ConfigurationError
from parties.model_provider.federated.plan import FederatedPlan
from parties.model_provider.federated.training import train_over_sites

FOLDER: Final = "folder"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train over the nodes that are connected, and write the release."""
    folder = str(context.run_config.get(FOLDER, ""))
    if not Path(folder).is_absolute():
        raise ConfigurationError(f"folder: expected a whole path, got {folder!r:.80}")
    plan = FederatedPlan.read(context.run_config)
    train_over_sites(grid, plan, Path(folder), _log)


def _log(event: str, fields: Mapping[str, Any]) -> None:
    logging.getLogger("flwr").info("%s %s", event, json.dumps(fields))

"""Run the orchestrator of a federation: `python -m orchestrator --folder F`."""

import argparse
import logging
import sys
from pathlib import Path

from core.errors import KeymixerError
from core.rpc.identity import load_identity
from core.rpc.logs import configure
from orchestrator.server import open_peers, open_registry, orchestrate
from orchestrator.settings import Settings

log = logging.getLogger("orchestrator")


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the party's folder")
    arguments = parser.parse_args()
    configure("INFO")
    try:
        _run(arguments.folder)
    except KeymixerError as error:
        log.exception("orchestrator stopped", extra={"kind": error.kind})
        return 1
    return 0


def _run(folder: Path) -> None:
    settings = Settings.load(folder)
    identity = load_identity(folder)
    with (
        open_registry(settings, identity) as registry,
        open_peers(settings, identity) as peers,
        orchestrate(settings, identity, registry, peers) as server,
    ):
        server.wait()


if __name__ == "__main__":
    sys.exit(main())

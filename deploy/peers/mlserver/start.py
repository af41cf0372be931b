"""Lay out what MLServer reads, and become it."""

import json
import os
import sys
from pathlib import Path

import plain

SETTINGS = {
    "host": "127.0.0.1",
    "http_port": int(os.environ["HTTP"]),
    "grpc_port": int(os.environ["PORT"]),
    "metrics_port": int(os.environ["METRICS"]),
    "metrics_endpoint": None,
    "parallel_workers": 1,
    "debug": False,
    "grpc_max_message_length": 64 << 20,
}
MODEL = {
    "name": "convmixer",
    "implementation": "runtime.Plain",
    "max_batch_size": plain.MAX_BATCH,
    "max_batch_time": plain.BATCH_DELAY_S,
}


def main() -> None:
    """Write both settings files, and start the server."""
    Path("settings.json").write_text(json.dumps(SETTINGS))
    Path("model-settings.json").write_text(json.dumps(MODEL))
    program = str(Path(sys.executable).parent / "mlserver")
    os.execv(program, [program, "start", "."])


if __name__ == "__main__":
    main()

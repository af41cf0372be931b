"""Lay out what TorchServe reads, and become it."""

import json
import os
import sys
from pathlib import Path

import plain

PEER = Path(__file__).parent
MODEL = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": plain.MAX_BATCH,
    "maxBatchDelay": max(1, int(1000 * plain.BATCH_DELAY_S)),
    "responseTimeout": 120,
}


def main() -> None:
    """Pack the handler as `--archive-format no-archive` does, and start the server."""
    store = Path("store").absolute()
    archive = store / "convmixer"
    (archive / "MAR-INF").mkdir(parents=True, exist_ok=True)
    (archive / "handler.py").write_bytes((PEER / "handler.py").read_bytes())
    named = {"modelName": "convmixer", "modelVersion": "1.0", "handler": "handler.py"}
    manifest = {"runtime": "python", "model": {**named, "configFile": "model.yaml"}}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    # JSON is YAML too.
    (archive / "model.yaml").write_text(json.dumps(MODEL))
    Path("config.properties").write_text(_properties())
    started = [
        *(str(Path(sys.executable).parent / "torchserve"), "--start", "--foreground"),
        *("--ncs", "--disable-token-auth", "--ts-config", "config.properties"),
        *("--model-store", str(store), "--models", "convmixer=convmixer"),
    ]
    os.execv(started[0], started)


def _properties() -> str:
    address = "http://127.0.0.1:"
    lines = {
        "inference_address": address + os.environ["PORT"],
        "management_address": address + os.environ["MANAGEMENT"],
        "metrics_address": address + os.environ["METRICS"],
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": os.environ["GRPC"],
        "grpc_management_port": os.environ["GRPC_MANAGEMENT"],
        "default_workers_per_model": 1,
        "job_queue_size": 1000,
        "max_request_size": 64 << 20,
        "disable_system_metrics": "true",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


if __name__ == "__main__":
    main()

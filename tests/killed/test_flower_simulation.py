"""The app on Flower's simulation engine, as docs/training.md says how to run it.

Ray runs the sites in processes of their own; the model is that of one process.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from parties.model_provider.federated.in_process import train_in_process
from parties.model_provider.federated.site import state_of
from parties.model_provider.release import read_release
from parties.model_provider.weights import model_of
from tests.unit.parties.federated.sites import few_digits, small_plan

pytest.importorskip("ray", reason="Ray is not installed: the extra flower-simulation")

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the document exports, ports of our own, and no process left behind."""
    home = tmp_path / "flwr"
    told = {
        **os.environ,
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }
    with local_link(told, tmp_path):
        yield told
    for process in started_with(home):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@contextmanager
def local_link(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """The SuperLink that `flwr run` would start, and wait for 15 s and no longer."""
    http = environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
    control = environment["FLWR_LOCAL_CONTROL_API_PORT"]
    command = [
        *(str(PROGRAMS / "flower-superlink"), "--insecure", "--simulation"),
        *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", http),
        *("--control-api-address", f"127.0.0.1:{control}"),
        *("--database", str(folder / "state.db")),
    ]
    with (
        (folder / "superlink.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as link,
    ):
        deadline = time.monotonic() + 120
        while not answers(http):
            assert link.poll() is None, (folder / "superlink.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
        link.kill()


def answers(port: str) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health") as answer:
        return bool(answer.status == HTTPStatus.OK)
    return False


def started_with(home: Path) -> list[int]:
    """What the SuperLink has started."""
    wanted = f"FLWR_HOME={home}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_the_simulation_engine_trains_the_model_of_one_process(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    data = few_digits(tmp_path / "digits.npz")
    plan = small_plan(data, partition="dirichlet:1")
    expected = train_in_process(plan, tmp_path / "here")
    config = {**plan.to_config(), "folder": str(tmp_path / "there")}
    said = " ".join(f"{name}={written(value)}" for name, value in config.items())
    done = subprocess.run(
        [
            *("flwr", "run", str(ROOT), "local", "--stream"),
            *("--federation-config", "num-supernodes=3 client-resources-num-cpus=1"),
            *("--run-config", said),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    release = tmp_path / "there" / "releases" / plan.name
    assert release.is_dir(), done.stdout[-3000:] + done.stderr[-3000:]
    got, wanted = (
        state_of(model_of(read_release(each))) for each in (release, expected.release)
    )
    assert got.keys() == wanted.keys()
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name], atol=1e-5, err_msg=name)
    assert read_release(release).manifest.metrics == expected.manifest.metrics


def written(value: object) -> str:
    """As TOML, which `--run-config` is."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)

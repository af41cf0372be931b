"""Flower's deployment runtime, as keymixer starts it: a SuperLink, and a node a site.

Flower's own programs run, with TLS by the federation's authority, with nodes that prove
who they are by the key of their certificate, and with nothing fetched from outside.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import tomli_w
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import core
import parties
from core.errors import ConfigurationError, SignatureError, Unavailable
from core.rpc.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE, parse_private_key
from core.rpc.private_files import read_private
from core.wire import read_file, write_atomically
from parties.model_provider.federated.ending import ROUNDS, Finished, read_finished
from parties.model_provider.federated.plan import FederatedPlan

# In the provider's folder: the SuperLink's certificate, its database, Flower's files.
LINK: Final = "link"
_CONNECTION: Final = "link"
_APP: Final = {
    "publisher": "keymixer",
    "fab-include": [
        "core/**/*.py",
        "parties/__init__.py",
        "parties/model_provider/**/*.py",
    ],
    "components": {
        "serverapp": "parties.model_provider.federated.server_app:app",
        "clientapp": "parties.model_provider.federated.client_app:app",
    },
}
_POLL_S: Final = 1.0
_LOOKS: Final = 15
_COMMAND_S: Final = 300.0


class RunFailedError(Unavailable):
    """Flower ended a run of ours, or did not take it."""

    hint = "read the SuperLink's log; the same command goes on after the last round"


def serve_link(folder: Path, listen: str) -> NoReturn:
    """Become the SuperLink of the provider in FOLDER; returns only by an error."""
    host, _, port = listen.rpartition(":")
    link = folder / LINK
    _become(
        "flower-superlink",
        link,
        *("--host", host, "--port", port, "--enable-supernode-auth"),
        *("--ssl-certfile", str(link / CERTIFICATE_FILE)),
        *("--ssl-keyfile", str(link / KEY_FILE)),
        *("--ssl-ca-certfile", str(link / CA_FILE)),
        *("--database", str(link / "superlink.db")),
        "--disable-runtime-dependency-installation",
    )


def serve_site(folder: Path, link: str, site: str, data: str) -> NoReturn:
    """Become the node of a site that has `data`; returns only by an error.

    The node's key is that of the site's certificate, in the form that Flower reads.
    """
    key = _parsed_key(folder)
    private = folder / "supernode.key"
    write_atomically(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    _become(
        "flower-supernode",
        folder,
        *("--superlink", link, "--root-certificates", str(folder / CA_FILE)),
        *("--auth-supernode-private-key", str(private)),
        *("--node-config", f"site={json.dumps(site)} data={json.dumps(data)}"),
        *("--port", str(_free_port())),
    )


def train_deployed(
    plan: FederatedPlan,
    folder: Path,
    link: str,
    sites: Sequence[Path],
    tell: Callable[[str, Mapping[str, Any]], None],
) -> Finished:
    """Let the sites in, start a run on the SuperLink, and follow it to its end.

    Args:
        sites: their certificates; only one that the federation's authority signed is
            let in.

    Raises:
        SignatureError: a certificate is another authority's.
        RunFailedError: the run ended without a release.
    """
    flower = _Flower(folder / LINK)
    flower.connect(link, folder / LINK / CA_FILE)
    for certificate in sites:
        flower.let_in(certificate)
    tell("admitted", {"sites": len(sites)})
    run = flower.start(plan, folder)
    progress = folder / "training" / plan.name / "progress.json"
    told = 0
    while not flower.has_ended(run):
        # Asking Flower starts a program of its own; looking at a file does not.
        for _ in range(_LOOKS):
            told = _tell_news(progress, told, plan.rounds, tell)
            time.sleep(_POLL_S)
    release = folder / "releases" / plan.name
    _tell_news(release / ROUNDS, told, plan.rounds, tell)
    return read_finished(release)


class _Flower:
    """The `flwr` command with a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def connect(self, address: str, authority: Path) -> None:
        """Write down where the SuperLink is."""
        link = {"address": address, "root-certificates": str(authority.resolve())}
        content = {"superlink": {"default": _CONNECTION, _CONNECTION: link}}
        path = self._home / "flwr" / "config.toml"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, tomli_w.dumps(content).encode())

    def let_in(self, certificate: Path) -> None:
        """Register the key of a site's certificate; one that is known stays."""
        public = signed_key(certificate, self._home / CA_FILE)
        path = self._home / "node.pub"
        write_atomically(path, public)
        self._said(
            *("supernode", "register", str(path), _CONNECTION, "--format", "json"),
            may_fail=True,
        )

    def start(self, plan: FederatedPlan, folder: Path) -> str:
        """Start a run, and return its number."""
        app = stage_app(self._home / "app")
        config = self._home / "run.toml"
        settings = {**plan.to_config(), "folder": str(folder.resolve())}
        write_atomically(config, tomli_w.dumps(settings).encode())
        said = self._said(
            *("run", str(app), _CONNECTION, "--run-config", str(config)),
            *("--format", "json"),
        )
        return str(said["run-id"])

    def has_ended(self, run: str) -> bool:
        """Whether a run has come to its end; one that failed is an error."""
        said = self._said("list", _CONNECTION, "--run-id", run, "--format", "json")
        status = str(said["runs"][0]["status"])
        if status.startswith("finished") and status != "finished:completed":
            raise RunFailedError(f"run {run} is {status}")
        return status == "finished:completed"

    def _said(self, *words: str, may_fail: bool = False) -> dict[str, Any]:
        done = subprocess.run(
            [_program("flwr"), *words],
            env=_environment(self._home),
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        found = done.stdout[done.stdout.find("{") :]
        if done.returncode and not may_fail:
            said = (done.stderr or done.stdout)[-500:]
            raise RunFailedError(
                f"flwr {words[0]}: exit code {done.returncode}\n{said}"
            )
        try:
            content: dict[str, Any] = json.loads(found) if found else {}
        except ValueError as error:
            if may_fail:
                return {}
            raise RunFailedError(f"flwr {words[0]} said {found:.200}") from error
        return content


def stage_app(folder: Path) -> Path:
    """Put together what Flower bundles: our code as it is installed, and settings."""
    shutil.rmtree(folder, ignore_errors=True)
    roots = (Path(str(core.__file__)).parent, Path(str(parties.__file__)).parent)
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(roots[0], folder / "core", ignore=ignore)
    shutil.copytree(
        roots[1] / "model_provider", folder / "parties/model_provider", ignore=ignore
    )
    shutil.copy(roots[1] / "__init__.py", folder / "parties" / "__init__.py")
    settings = {
        "project": {"name": "keymixer", "version": "0.1.0"},
        "tool": {"flwr": {"app": {**_APP, "config": _config()}}},
    }
    (folder / "pyproject.toml").write_bytes(tomli_w.dumps(settings).encode())
    return folder


def _config() -> dict[str, Any]:
    return {"folder": "", **FederatedPlan().to_config()}


def _become(program: str, home: Path, *arguments: str) -> NoReturn:
    """Replace this process, so that who ends it ends Flower's program."""
    environment = {**_environment(home), "OMP_WAIT_POLICY": "PASSIVE"}
    os.execve(_program(program), [program, *arguments], environment)


def _environment(home: Path) -> dict[str, str]:
    """Nothing is told to Flower's makers, and no package is installed at run time."""
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str((home / "flwr").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def _program(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ConfigurationError(f"{name} is not installed: pip install '.[provider]'")
    return str(path)


def _parsed_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    return parse_private_key(read_private(folder / KEY_FILE), folder / KEY_FILE)


def signed_key(certificate: Path, authority: Path) -> bytes:
    """The public key of a certificate that the authority signed, as OpenSSH has it."""
    try:
        found = x509.load_pem_x509_certificate(read_file(certificate))
        found.verify_directly_issued_by(
            x509.load_pem_x509_certificate(read_file(authority))
        )
    except (ValueError, TypeError, InvalidSignature) as error:
        raise SignatureError(f"{certificate} is not this federation's") from error
    return found.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


def _tell_news(
    progress: Path,
    told: int,
    rounds: int,
    tell: Callable[[str, Mapping[str, Any]], None],
) -> int:
    """Tell of the rounds that were written down since the last time."""
    try:
        found = json.loads(progress.read_bytes())
        done = found["told"]["rounds"] if isinstance(found, dict) else found
    except (OSError, ValueError, KeyError):
        return told
    for each in done[told:]:
        tell("round", {**each, "round": each["number"], "rounds": rounds})
    return max(told, len(done))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

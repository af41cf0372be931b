"""How each peer is run, as `deploy/peers/<name>/peer.yaml` says it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from core.errors import ConfigurationError, NotFound

PEERS: Final = Path("deploy/peers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One peer. In `command` and `environment` stand names in braces.

    They are `peer`, its folder; `folder`, where it runs; `sockets`, one whose path is
    short, gone afterwards; `release`, `host`, `threads`, and those of its ports.

    Args:
        package: whose version is told.
        command: what starts the server; its first word is a program of its environment.
        transport, path, form: as in `orchestrator.bench.connections.Target`.
        programs: what it needs that pip does not install.
        ports: names of the ports it opens; requests go to the first.
        alone: it opens others to all, so it runs in a network namespace of its own,
            and so does what makes its requests.
    """

    folder: Path
    package: str
    command: tuple[str, ...]
    transport: str
    path: str
    form: str
    ports: tuple[str, ...] = ("port",)
    programs: tuple[str, ...] = ()
    alone: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.txt"


def read_recipes(names: Sequence[str], peers: Path = PEERS) -> list[Recipe]:
    """The peers of these names; all of them, if there is none.

    Raises:
        NotFound: there is no such peer.
        ConfigurationError: its `peer.yaml` is wrong.
    """
    known = sorted(path.parent.name for path in peers.glob("*/peer.yaml"))
    if not known:
        raise NotFound(f"no peers in {peers}: run in the root of a checkout")
    for name in names:
        if name not in known:
            raise NotFound(f"no peer is called {name!r}: {', '.join(known)}")
    return [_read(peers / name) for name in names or known]


def _read(folder: Path) -> Recipe:
    entries: dict[str, Any] = yaml.safe_load((folder / "peer.yaml").read_text())
    known = {field.name for field in fields(Recipe)} - {"folder"}
    if wrong := entries.keys() - known:
        raise ConfigurationError(f"{folder}/peer.yaml: unknown: {sorted(wrong)}")
    for name in ("command", "ports", "programs"):
        if name in entries:
            entries[name] = tuple(map(str, entries[name]))
    variables = entries.pop("environment", {})
    return Recipe(
        folder=folder.resolve(),
        environment=tuple((name, str(value)) for name, value in variables.items()),
        **entries,
    )

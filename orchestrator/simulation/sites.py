"""Have several sites train the model, each with a node of its own on this machine.

providers/<organisation>/link/   the SuperLink's certificate and its database
sites/<name>/                    a site's certificate, its key, and its images

Every site and the SuperLink are processes of their own, as on machines of their own;
what is special here is only that the images are dealt out to them first.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from core.datasets import Dataset, OnProgress, Split, load
from core.datasets.partition import Partition, take
from core.errors import Unavailable
from core.rpc.identity import (
    CERTIFICATE_FILE,
    MODEL_PROVIDER,
    SpiffeId,
    create_identity,
    install_certificate,
)
from orchestrator.certificates import DevelopmentCA
from orchestrator.federation import FederatedSection, ModelSection
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Event, Processes
from orchestrator.simulation.workspace import Workspace

# Not a party of the federation: the orchestrator, who knows no such role, refuses it.
TRAINING_SITE: Final = "training-site"
IMAGES: Final = "images.npz"
LINK: Final = "superlink"

_PROVIDER: Final = "parties.model_provider"
_HOST: Final = "127.0.0.1"
# Flower imports much: on a machine that has other work it takes minutes.
_READY_S: Final = 300.0
# Flower takes a node for gone when it has missed two heartbeats of 30 s, and only then
# lets it come back.
_GONE_S: Final = 65.0
_SPLITS: Final[tuple[Split, Split]] = ("train", "test")

OnEvent = Callable[[Event], None]


class LinkNotReady(Unavailable):
    """Flower's SuperLink runs, but nobody can connect to it."""

    hint = "read the log that the message names"


@dataclass(frozen=True)
class Sites:
    """The sites of one model, and who starts and follows them."""

    workspace: Workspace
    running: Processes
    narrator: Narrator
    model: ModelSection
    federated: FederatedSection

    @property
    def provider(self) -> SpiffeId:
        """Who the sites are parts of."""
        return self.workspace.federation.spiffe(self.model.provider, MODEL_PROVIDER)

    @property
    def folders(self) -> Mapping[str, Path]:
        """Each site's own folder."""
        return {
            name: self.workspace.root / "sites" / name for name in self.federated.sites
        }

    def train(self, spec: str, options: Sequence[str], tell: OnEvent) -> None:
        """Start a SuperLink and the sites, train, and end them again."""
        certify(self.workspace, self.provider, self.folders)
        deal_to_sites(self.model, spec, self.federated, self.folders)
        address = f"{_HOST}:{_free_port()}"
        folder = str(self.workspace.folder(self.provider))
        link = [_PROVIDER, "link", "--folder", folder, "--listen", address]
        self.running.start(LINK, MODEL_PROVIDER, link)
        _wait_for(self.running, address)
        self.running.run(
            f"{self.model.provider}-train",
            MODEL_PROVIDER,
            [*self._asked(folder, address), *options],
            lambda event: self._follow(event, address, tell),
        )
        for name in [*map(_process, self.folders), LINK]:
            self.running.end(name)

    def _follow(self, event: Event, address: str, tell: OnEvent) -> None:
        tell(event)
        # Nodes come when they are let in: Flower turns away a key it does not know.
        if event["event"] == "admitted":
            for site in self.folders:
                self._start(site, address)
        killed = self.federated.killed_once
        if killed and (event["event"], event.get("round")) == ("round", 1):
            self._kill_and_return(killed, address)

    def _start(self, site: str, address: str) -> None:
        folder = self.folders[site]
        node = [_PROVIDER, "site", "--folder", str(folder), "--link", address]
        mine = ("--name", site, "--data", str(folder / IMAGES))
        self.running.start(_process(site), TRAINING_SITE, [*node, *mine])

    def _kill_and_return(self, site: str, address: str) -> None:
        self.narrator.says(TRAINING_SITE, site, "is killed while it trains")
        self.running.kill(_process(site))
        time.sleep(_GONE_S)
        self._start(site, address)
        self.narrator.says(TRAINING_SITE, site, "is back")

    def _asked(self, folder: str, address: str) -> list[str]:
        federated, folders = self.federated, self.folders
        seed = () if federated.seed is None else ("--seed", str(federated.seed))
        admitted = [
            part
            for site in folders.values()
            for part in ("--admit", str(site / CERTIFICATE_FILE))
        ]
        return [
            *(_PROVIDER, "train-sites", "--folder", folder, "--link", address),
            *("--sites", str(len(folders)), "--partition", "by-organisation"),
            *("--name", self.model.name, "--data", "sites", "--progress", "json"),
            *("--rounds", str(federated.rounds), "--strategy", federated.strategy),
            *admitted,
            *seed,
        ]


def deal_to_sites(
    model: ModelSection,
    spec: str,
    federated: FederatedSection,
    folders: Mapping[str, Path],
) -> None:
    """Write each site's images into its own folder."""
    train, test = (load_for(model, spec, split) for split in _SPLITS)
    partition = Partition.parse(federated.partition)
    dealt = partition.deal(
        (train.labels, test.labels), len(folders), federated.partition_seed
    )
    for folder, (learn, unseen) in zip(folders.values(), dealt, strict=True):
        write_images(folder / IMAGES, take(train, learn), take(test, unseen))


def load_for(
    model: ModelSection, spec: str, split: Split, on_progress: OnProgress | None = None
) -> Dataset:
    """Load one split as the model's provider does."""
    images = model.images
    size, resize = (images.fitted, images.resize) if images else (None, None)
    return load(spec, split, on_progress, size=size, resize=resize)


def write_images(path: Path, train: Dataset, test: Dataset) -> None:
    """Write both splits as an .npz file, in a folder that nobody else can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(
            file,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            classes=np.array(train.classes),
        )


def certify(
    workspace: Workspace, provider: SpiffeId, folders: Mapping[str, Path]
) -> None:
    """Give the SuperLink and each site a certificate of the federation's authority."""
    authority = DevelopmentCA.load(workspace.root / "ca")
    link = workspace.folder(provider) / "link"
    federation = workspace.federation
    sites = {folders[name]: federation.spiffe(name, TRAINING_SITE) for name in folders}
    for folder, spiffe in {link: provider, **sites}.items():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        hosts = (_HOST,) if folder == link else ()
        signed = authority.sign(create_identity(folder, spiffe), spiffe, hosts=hosts)
        install_certificate(folder, signed, authority.ca_pem)


def _process(site: str) -> str:
    return f"site-{site}"


def _wait_for(running: Processes, address: str) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _READY_S
    while True:
        running.check()
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                log = running.logs / f"{LINK}.log"
                raise LinkNotReady(
                    f"the SuperLink does not listen on {address} after {_READY_S:.0f} s"
                    f"; its log is {log}"
                ) from error
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port

"""Bring a federation up: data, a trained release, running servers, confirmed keys."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.datasets import Dataset
from core.errors import Unavailable
from core.rpc.channel import wait_ready
from core.rpc.identity import (
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    load_identity,
)
from orchestrator.audit.reading import record_of
from orchestrator.federation import ModelSection, Release
from orchestrator.operator import Operator, operator
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.processes import Event, Processes
from orchestrator.simulation.rotation import Order
from orchestrator.simulation.sites import load_for
from orchestrator.simulation.training import obtain_release, release_folder
from orchestrator.simulation.workspace import Workspace, assign_ports
from orchestrator.simulation.world import Dealt, deal, split

READY_S = 60.0
# The orchestrator first: the others register with it before they are healthy.
_MODULES = {
    ORCHESTRATOR: "orchestrator",
    KEY_HOLDER: "parties.key_holder",
    INFERENCE_SERVER: "parties.inference_server",
}
# What each server's health check names.
HEALTH_SERVICES = {
    ORCHESTRATOR: "keymixer.v1.RegistryService",
    KEY_HOLDER: "keymixer.v1.KeyHolderService",
    INFERENCE_SERVER: "inference.GRPCInferenceService",
}


class ServerNotReady(Unavailable):
    """A server runs, but does not pass its health check."""

    hint = "read the log that the message names"


@dataclass
class Stage:
    """Everything a running simulation holds."""

    workspace: Workspace
    running: Processes
    narrator: Narrator
    data_spec: str
    data: Dataset | None = None
    dealt: Dealt | None = None
    told: int = 0
    # What owners that ask without pause write down, and what is ordered meanwhile.
    traffic: dict[str, list[Path]] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    # The model's registered versions, each with the folder of its release.
    releases: dict[int, Path] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> ModelSection:
        """The model of the simulation: the scenario's first."""
        return self.workspace.federation.models[0]

    @property
    def owners(self) -> list[str]:
        """The owners that may use the model, in the order of the grants."""
        grants = self.workspace.federation.policies.grants
        return [g.owner for g in grants if g.model == self.model.name]

    @property
    def operator_name(self) -> str:
        """The organisation of the federation's first operator."""
        return self.workspace.federation.first(OPERATOR).organisation

    @contextmanager
    def operator(self) -> Iterator[Operator]:
        """Talk to the orchestrator as the federation's first operator."""
        with operator(self.workspace.operator_folder()) as connected:
            yield connected

    def require_data(self) -> Dataset:
        """The test split; `fetch_data` comes first."""
        if self.data is None:
            raise RuntimeError("fetch_data comes first")
        return self.data

    def require_dealt(self) -> Dealt:
        """Who was given which images; `fetch_data` comes first."""
        if self.dealt is None:
            raise RuntimeError("fetch_data comes first")
        return self.dealt

    def log_bodies(self) -> list[dict[str, Any]]:
        """The audit log's records so far, read."""
        with self.operator() as connected:
            return [json.loads(entry.body) for entry in connected.entries()]

    def tell_news(self) -> None:
        """Tell what the audit log has recorded since the last time."""
        with self.operator() as connected:
            for entry in connected.entries(self.told):
                self.narrator.tells(record_of(entry))
                self.told = entry.index + 1


def fetch_data(stage: Stage) -> None:
    """Load the test split and deal it out to the owners."""
    with stage.narrator.bar("images") as bar:

        def progress(what: str, done: int, total: int | None) -> None:
            bar(done, total, what)

        stage.data = load_for(stage.model, stage.data_spec, "test", progress)
    scenario = stage.workspace.federation.simulation
    shares = scenario.shares or dict.fromkeys(stage.owners, 1.0)
    count = min(scenario.images, len(stage.data.images))
    if count < scenario.images:
        stage.narrator.console.print(
            f"  The scenario asks for {scenario.images:,} images; there are {count:,}."
        )
    stage.dealt = split(count, shares)
    deal(stage.data, stage.dealt, stage.workspace.owner_folder)
    for owner, part in stage.dealt.parts.items():
        stage.narrator.says("data-owner", owner, f"has {len(part):,} images of its own")


def train(stage: Stage, *, retrain: bool, later: Sequence[Release] = ()) -> None:
    """Have the provider train its model, or reuse the cached release.

    Args:
        stage: where.
        retrain: train even if a release is cached.
        later: what is to be released besides, while owners ask.
    """
    data = {"spec": stage.data_spec, "digest": stage.require_data().digest}
    models = [stage.model, *(each.of(stage.model) for each in later)]
    for number, model in enumerate(models, start=1):
        obtain_release(
            stage.workspace,
            stage.running,
            model,
            data,
            stage.narrator,
            retrain=retrain,
            number=number,
        )


def start_servers(stage: Stage) -> None:
    """Start the servers; ready means a passed health check over mutual TLS."""
    assign_ports(stage.workspace)
    workspace = stage.workspace
    for name, role in workspace.servers.items():
        arguments = [_MODULES[role], "--folder", str(workspace.root / name)]
        stage.running.start(name, role, arguments)
    for name, role in workspace.servers.items():
        wait_until_ready(stage, name)
        party = workspace.federation.only(role)
        ready = f"is ready on {workspace.address(name)}"
        stage.narrator.says(role, party.organisation, ready)
    stage.tell_news()


def wait_until_ready(stage: Stage, server: str) -> None:
    """Poll in short waits, so that a server that died is noticed at once."""
    identity = load_identity(stage.workspace.operator_folder())
    role = stage.workspace.servers[server]
    deadline = time.monotonic() + READY_S
    while True:
        stage.running.check()
        try:
            wait_ready(
                stage.workspace.address(server),
                identity,
                stage.workspace.federation.only(role),
                HEALTH_SERVICES[role],
                timeout_s=1.0,
            )
        except Unavailable as error:
            if time.monotonic() > deadline:
                log = stage.workspace.logs / f"{server}.log"
                raise ServerNotReady(f"{error}; its log is {log}") from error
        else:
            return


def release(stage: Stage, alias: str = "champion") -> int:
    """The provider registers its next release and delivers its two halves.

    Returns the version that the registry gave it; `alias` names it from now on.
    """
    provider = stage.workspace.federation.spiffe(stage.model.provider, MODEL_PROVIDER)
    number = len(stage.releases) + 1
    folder = release_folder(stage.workspace, stage.model, number)
    *_, registered = stage.running.run(
        f"{stage.model.provider}-register",
        MODEL_PROVIDER,
        [
            *("parties.model_provider", "register", "--alias", alias),
            *("--folder", str(stage.workspace.folder(provider))),
            *("--release", str(folder)),
        ],
    )
    version = int(registered["version"])
    stage.releases[version] = folder
    stage.tell_news()
    return version


def issue_keys(stage: Stage) -> None:
    """Keys are drawn, sealed, fetched, confirmed; the model is issued under each."""
    with stage.operator() as connected:
        for owner in stage.owners:
            spiffe = str(stage.workspace.owner(owner))
            connected.grant(spiffe, stage.model.name)
            agree(stage, connected.create_key(spiffe, stage.model.name).approval_id)
    for_each_owner(stage, lambda owner: ask_owner(stage, owner, "keys"))
    stage.tell_news()


def agree(stage: Stage, approval_id: int) -> None:
    """Let a second operator approve what the first asked for; 0: nobody need."""
    if not approval_id:
        return
    federation = stage.workspace.federation
    first, *others = federation.organisations_with(OPERATOR)
    able = federation.policies.approvers or others
    second = next(organisation for organisation in able if organisation != first)
    with operator(stage.workspace.operator_folder(second)) as connected:
        connected.approve(approval_id)


def ask_owner(
    stage: Stage, owner: str, command: str, *arguments: str, **follow: Any
) -> list[Event]:
    """Run one act of a data owner in a process of its own; returns its events."""
    folder = str(stage.workspace.owner_folder(owner))
    return stage.running.run(
        f"{owner}-{command}",
        "data-owner",
        ["parties.data_owner", command, "--folder", folder, *arguments],
        **follow,
    )


def for_each_owner(stage: Stage, act: Callable[[str], Any]) -> dict[str, Any]:
    """Let all owners act at the same time; the first failure is raised."""
    owners = stage.owners
    with acts_of(stage, len(owners)) as pool:
        return dict(zip(owners, pool.map(act, owners), strict=True))


@contextmanager
def acts_of(stage: Stage, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that follow acts; if something fails, the acts are ended, not awaited."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            stage.running.stop()
            raise


def bring_up(stage: Stage, *, retrain: bool, later: Sequence[Release] = ()) -> None:
    """All of the above, as phases a person can follow; `later` as `train` has it."""
    narrator = stage.narrator
    with narrator.phase("data", "Images"):
        fetch_data(stage)
    with narrator.phase("train", "Training"):
        train(stage, retrain=retrain, later=later)
    with narrator.phase("start", "Parties, each in a process of its own, mutual TLS"):
        start_servers(stage)
    with narrator.phase("release", "Release"):
        release(stage)
    with narrator.phase("keys", "Keys drawn, sealed, confirmed; models issued"):
        issue_keys(stage)

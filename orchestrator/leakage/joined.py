"""A run's folder, read as the parties that might join forces could read it.

Each party's package opens its own folder (entry points `keymixer.leakage`), with that
party's own code and key-encryption key. Transformed pictures are on no disk: the
victim's client makes them once more, from the pictures it was dealt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from core.datasets import OnProgress, load
from core.datasets.npz import load_arrays
from core.errors import DataError
from core.leakage.coalitions import Member, Victim
from core.leakage.held import Held, KeyName
from core.leakage.material import FEWEST, Material
from core.leakage.moments import Blocks
from core.leakage.served import Served
from core.manifest import Manifest
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    SpiffeId,
)
from orchestrator.leakage.crowds import crowd_of, labels_for
from orchestrator.leakage.pictures import (
    PUBLIC,
    coordinates_for,
    kept,
    public_count,
    shares,
)
from orchestrator.simulation.workspace import Workspace, open_workspace

# Of each owner's pictures the server is taken to have seen so many, and of the victim's
# so many leak, each of them alone.
_SEEN: Final = 1000
_LEAKED: Final = 6


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Which run to attack, and whose pictures; its first owner's if none is named.

    `public` is what the attackers' public pictures are drawn from, its training split;
    the scenario's own dataset if nothing is said.
    """

    root: Path
    owner: str | None = None
    public: str | None = None
    images: int = 24
    seed: int = 0
    thorough: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What every party of a run holds, and what is attacked."""

    material: Material
    holdings: Mapping[Member, Held] = field(repr=False)
    victim: Victim
    leaked: Sequence[Blocks] = field(repr=False)
    anybody: Held
    facts: Mapping[str, Any]


def read_run(plan: RunPlan, on_progress: OnProgress) -> Joined:
    """Open every party's folder of a run that is over, or still goes on.

    Raises:
        ConfigurationError: there is no run, or a party's secrets do not open.
        DataError: fewer than two owners have keys.
    """
    folders = _Folders(open_workspace(plan.root), _parties())
    manifest, server = folders.served()
    names = folders.in_order(server, plan.owner)
    rng = np.random.default_rng((plan.seed, 200))
    pixels = {name: _some(folders.pixels(name), name, rng) for name in names}
    seen = {n: folders.received(n, manifest, pixels[n]) for n in names}
    holdings = {
        Member.PROVIDER: folders.provider(manifest),
        Member.KEY_HOLDER: folders.key_holder(manifest),
        Member.SERVER: Held(issued=server.issued, seen=seen),
        Member.OWNER: folders.owner(names[1], manifest),
    }
    if (plain := holdings[Member.PROVIDER].embedding) is None:
        raise DataError(f"the provider of {manifest.name} has no plain embedding")
    victim = Victim(
        names[0],
        shares(pixels[names[0]][: plan.images]),
        folders.owner(names[0], manifest).keys[names[0]],
        plain,
        {name: folders.owner(name, manifest).keys[name] for name in names[1:]},
    )
    spec = plan.public or folders.workspace.federation.simulation.data
    return Joined(
        _material(plan, spec, (manifest, folders.rest(manifest)), victim, on_progress),
        holdings,
        victim,
        [seen[names[0]][i : i + 1] for i in range(min(_LEAKED, len(victim.pictures)))],
        Held(embedding=plain) if manifest.public_embedding else Held(),
        _facts(folders.workspace, manifest, names, seen),
    )


def find_run(scenario: Path, runs: Path) -> Path | None:
    """The newest run of this very scenario that went to its end, if there is one."""
    wanted = scenario.read_bytes()
    ended = (path.parent for path in runs.glob("*/report.json"))
    same = [
        run
        for run in ended
        if not run.is_symlink() and (run / "federation.yaml").read_bytes() == wanted
    ]
    return max(same, key=lambda run: run.name, default=None)


def _parties() -> Mapping[str, ModuleType]:
    """The parties' own readers of their folders, by role."""
    found = {
        entry.name: entry.load() for entry in entry_points(group="keymixer.leakage")
    }
    wanted = (MODEL_PROVIDER, KEY_HOLDER, INFERENCE_SERVER, DATA_OWNER)
    if missing := [role for role in wanted if role not in found]:
        raise DataError(
            f"the package of the {missing[0]} is not installed, or before this version"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Folders:
    """The parties' folders, each read by its own party's code."""

    workspace: Workspace
    parties: Mapping[str, ModuleType]

    def served(self) -> tuple[Manifest, Held]:
        """The newest version of the model that is issued under keys, and those."""
        folder = self.workspace.server_folder(INFERENCE_SERVER)
        reader = self.parties[INFERENCE_SERVER]
        model = self.workspace.federation.models[0].name
        for manifest in reversed(reader.served(folder)):
            held: Held = reader.secrets_held(folder, manifest)
            if manifest.name == model and held.issued:
                return manifest, held
        raise DataError(f"{self.workspace.root}: {model} is issued under no key")

    def rest(self, manifest: Manifest) -> Served:
        """What the server has of the model but for embeddings."""
        folder = self.workspace.server_folder(INFERENCE_SERVER)
        tensors = self.parties[INFERENCE_SERVER].backbone_held(folder, manifest)
        return Served(manifest.architecture, tensors)

    def in_order(self, server: Held, owner: str | None) -> list[KeyName]:
        """The victim's newest key, that of who joins the others, and all others'."""
        newest = {name.owner: name for name in sorted(server.issued)}
        grants = self.workspace.federation.policies.grants
        granted = [str(self.workspace.owner(grant.owner)) for grant in grants]
        names = [newest[each] for each in dict.fromkeys(granted) if each in newest]
        if owner is not None:
            wanted = str(self.workspace.owner(owner))
            if wanted not in newest:
                raise DataError(f"{owner} has no key that the model is issued under")
            names.sort(key=lambda name: name.owner != wanted)
        if len(names) < 2:  # noqa: PLR2004 -- the victim, and who joins the others
            raise DataError("two data owners with keys in use are needed")
        return names

    def provider(self, manifest: Manifest) -> Held:
        federation = self.workspace.federation
        provider = federation.spiffe(federation.models[0].provider, MODEL_PROVIDER)
        return self._held(MODEL_PROVIDER, self.workspace.folder(provider), manifest)

    def key_holder(self, manifest: Manifest) -> Held:
        folder = self.workspace.server_folder(KEY_HOLDER)
        return self._held(KEY_HOLDER, folder, manifest)

    def owner(self, name: KeyName, manifest: Manifest) -> Held:
        return self._held(DATA_OWNER, self._folder(name), manifest)

    def pixels(self, name: KeyName) -> np.ndarray:
        """The pictures that a simulation has dealt to an owner, bytes [n, h, w, c]."""
        return load_arrays(self._folder(name) / "images.npz")[0]

    def received(self, name: KeyName, manifest: Manifest, pixels: np.ndarray) -> Blocks:
        """What the server reads when the owner asks about these pictures."""
        blocks: Blocks = self.parties[DATA_OWNER].as_received(
            self._folder(name), manifest, name, pixels
        )
        return blocks

    def _held(self, role: str, folder: Path, manifest: Manifest) -> Held:
        held: Held = self.parties[role].secrets_held(folder, manifest)
        return held

    def _folder(self, name: KeyName) -> Path:
        return self.workspace.folder(SpiffeId.parse(name.owner))


def _some(pixels: np.ndarray, name: KeyName, rng: np.random.Generator) -> np.ndarray:
    if len(pixels) < FEWEST:
        raise DataError(f"{name.owner} has {len(pixels)} pictures, not {FEWEST}")
    return pixels[rng.permutation(len(pixels))[:_SEEN]]


def _facts(
    workspace: Workspace,
    manifest: Manifest,
    names: Sequence[KeyName],
    seen: Mapping[KeyName, Blocks],
) -> dict[str, Any]:
    """What was attacked, in the open."""
    said = [f"{name.key_id} v{name.version}" for name in names]
    return {
        "federation": workspace.federation.federation,
        "model": manifest.name,
        "public_embedding": manifest.public_embedding,
        "victim": said[0],
        "member": said[1],
        "others": said[2:],
        "ciphertexts": {name.key_id: len(seen[name]) for name in names},
    }


def _material(
    plan: RunPlan,
    spec: str,
    model: tuple[Manifest, Served],
    victim: Victim,
    on_progress: OnProgress,
) -> Material:
    manifest, served = model
    shape = manifest.preprocessing
    size = (shape.height, shape.width)
    loaded = load(spec, "train", on_progress, size=size, resize=shape.resize)
    rng = np.random.default_rng((plan.seed, 201))
    learning = manifest.shield is not None or plan.thorough
    chosen = rng.permutation(len(loaded))[: public_count(shape, learning=learning)]
    public, labels = loaded.images[chosen], labels_for(manifest, loaded)
    crowd = crowd_of(public, None if labels is None else labels[chosen])
    return Material(
        own=victim.pictures,
        public=shares(public[: kept(PUBLIC, shape)]),
        coordinates=coordinates_for(
            shape, manifest.block[0], manifest.shield, crowd.pictures, plan.seed
        ),
        embedding=victim.embedding,
        seed=plan.seed,
        thorough=plan.thorough,
        served=served,
        crowd=crowd if learning else None,
    )

"""A run's folder, filled by each party's own code, and read as its parties could."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.architecture import Architecture
from core.convmixer import initialise, take_apart
from core.datasets import load
from core.errors import DataError, KeymixerError, NotFound
from core.keys import BlockKey, derive_key
from core.leakage.coalitions import HELD, NOTHING, WITH_KEY, Member
from core.leakage.held import KeyName
from core.manifest import Manifest
from core.orthogonal import GENERATOR
from core.preprocessing import Preprocessing
from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, MODEL_PROVIDER
from core.shield import Shield, shielded
from core.statements import IssueStatement
from core.transform import embedding_digest, transform_embedding
from core.wire import file_digest, save_tensors
from orchestrator.cli.__main__ import build
from orchestrator.leakage.coalition_rows import as_json, attempts, words
from orchestrator.leakage.joined import RunPlan, find_run, read_run
from orchestrator.simulation.workspace import Workspace, create_workspace
from parties.data_owner.held import secrets_held as owner_holds
from parties.data_owner.keyring import KeyFacts, Keyring
from parties.inference_server.held import backbone_held
from parties.inference_server.held import secrets_held as server_holds
from parties.inference_server.store import ModelName, ModelStore
from parties.key_holder.held import secrets_held as key_holder_holds
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.opening import open_store
from parties.key_holder.settings import Settings
from parties.model_provider.held import secrets_held as provider_holds
from tests.shields import shield_named

SCENARIO = Path(__file__).parents[3] / "deploy" / "scenarios" / "digits.yaml"
OWNERS = ("post-office", "savings-bank", "archive")
SIZES = Architecture(
    hidden=16, depth=1, patch_size=2, channels=1, height=8, width=8, classes=10
)

DIGITS = Preprocessing(8, 8, 1, (0.3,), (0.35,))


class Made:
    """A workspace in which every party was left what a run leaves it."""

    def __init__(
        self, runs: Path, *, public: bool = False, shield: Shield | None = None
    ) -> None:
        self.sizes = shielded(SIZES, shield)
        self.block = self.sizes.patch_size, self.sizes.channels
        self.workspace: Workspace = create_workspace(runs, SCENARIO)
        federation = self.workspace.federation
        provider = self.workspace.folder(federation.only(MODEL_PROVIDER))
        release = provider / "releases" / "digits"
        release.mkdir(parents=True)
        self.embedding, backbone = take_apart(initialise(self.sizes, 0))
        save_tensors(release / "embedding.safetensors", {"weight": self.embedding})
        save_tensors(release / "backbone.safetensors", backbone)
        self.release = release
        self.manifest = Manifest(
            name="digits",
            architecture=self.sizes,
            preprocessing=DIGITS,
            classes=tuple("0123456789"),
            metrics={},
            lineage={},
            embedding_digest=file_digest(release / "embedding.safetensors"),
            backbone_digest=file_digest(release / "backbone.safetensors"),
            public_embedding=public,
            shield=shield,
        )
        self.store = ModelStore(self.workspace.server_folder(INFERENCE_SERVER))
        content = (release / "backbone.safetensors").read_bytes()
        self.store.save_backbone(ModelName("digits", 1), self.manifest, content)
        self.keys = {name.owner: (name, key) for name, key in self._drawn()}
        digits = load("digits", "test")
        for number, owner in enumerate(OWNERS):
            rows = slice(30 * number, 30 * (number + 1))
            np.savez(
                self.workspace.owner_folder(owner) / "images.npz",
                images=digits.images[rows],
                labels=digits.labels[rows],
            )

    def _drawn(self) -> list[tuple[KeyName, BlockKey]]:
        folder = self.workspace.server_folder(KEY_HOLDER)
        settings, found = Settings.read(folder), []
        with open_store(folder, settings.database) as opened:
            vault = opened.unlocked(settings.kek)
            vault.store_embedding(
                "digits", 1, (self.release / "embedding.safetensors").read_bytes()
            )
            for owner in OWNERS:
                spiffe, key_id = str(self.workspace.owner(owner)), f"{owner}.digits"
                vault.create_key(
                    KeyIdentity(key_id, 1, spiffe, "digits", GENERATOR, *self.block)
                )
                with vault.open_seed(key_id, 1) as seed:
                    facts = KeyFacts(key_id, 1, "digits", GENERATOR, *self.block)
                    home = self.workspace.owner_folder(owner)
                    Keyring(home).add(facts, bytes(seed))
                    key = derive_key(
                        seed,
                        key_id=key_id,
                        version=1,
                        patch_size=self.block[0],
                        channels=self.block[1],
                    )
                self._issue(spiffe, key)
                found.append((KeyName(spiffe, key_id, 1), key))
        return found

    def _issue(self, owner: str, key: BlockKey) -> None:
        issued = transform_embedding(self.embedding, key)
        file = self.release / "issued.tmp"
        save_tensors(file, {"weight": issued})
        digest = embedding_digest(issued).hex()
        statement = IssueStatement(
            key.key_id, 1, owner, "digits", 1, digest, *self.block, SIZES.hidden
        )
        self.store.save_issue(statement.to_bytes(), b"-", file.read_bytes(), owner)
        file.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("runs"))


def plan(made: Made, owner: str | None = None) -> RunPlan:
    return RunPlan(made.workspace.root, owner=owner, images=12)


def nothing(*_: object) -> None:
    """Tell nobody how far it is."""


def test_each_party_holds_its_own_and_no_more(made: Made) -> None:
    joined = read_run(plan(made), nothing)
    provider, holder, server, owner = (joined.holdings[each] for each in Member)

    assert provider.embedding is not None
    assert not provider.keys
    assert not provider.issued
    assert holder.embedding is not None
    assert set(holder.keys) == {name for name, _ in made.keys.values()}
    assert not holder.issued
    assert server.embedding is None
    assert not server.keys
    assert set(server.issued) == set(server.seen) == set(holder.keys)
    assert owner.embedding is None
    assert [name.key_id for name in owner.keys] == ["savings-bank.digits"]


def test_the_server_receives_what_the_owners_key_makes_of_pictures(made: Made) -> None:
    """Opened with the key that the test saw drawn, they are the owner's pictures."""
    joined = read_run(plan(made), nothing)
    name, key = made.keys[str(made.workspace.owner("post-office"))]
    opened = joined.material.coordinates.pictures(
        joined.holdings[Member.SERVER].seen[name] @ key.matrix
    )

    assert joined.victim.name == name
    assert opened[:12] == pytest.approx(joined.victim.pictures, abs=1e-5)
    assert [each.shape for each in joined.leaked] == [(1, 4, 4, 4)] * 6


def test_the_table_of_a_run(made: Made) -> None:
    """One ciphertext of 8x8 pixels in blocks of four tells little; algebra does not."""
    rows = [as_json(row) for row in attempts(read_run(plan(made), nothing))]
    server, owner = "inference server", "another data owner"
    of = {tuple(row["members"]): row for row in rows if not row["recorded"]}

    assert len(rows) == 17
    assert of[()]["pictures"]["by"] == NOTHING
    assert of["key holder",]["key"] == {
        "recovered": True,
        "by": HELD,
        "error": 0.0,
        "count": 1,
    }
    assert of[server, owner]["key"]["recovered"]
    assert of[server, owner]["pictures"]["ssim"] > 0.999
    assert of[server, owner]["other_keys"]["count"] == 1
    assert not of[owner,]["key"]["recovered"]
    assert words(of[owner,])["pictures"] == "nothing to open"
    assert words(of["key holder",])["leaked"] == "yes: SSIM 1.000"


@pytest.mark.parametrize("spec", ["highpass:1", "noise:0.3"])
def test_whoever_has_the_key_still_has_no_more_than_a_shield_leaves(
    spec: str, tmp_path: Path
) -> None:
    """The pictures are estimated from all of their blocks, and are not the owner's."""
    shield = shield_named(spec, load("digits", "train").images, DIGITS, 2)
    joined = read_run(plan(Made(tmp_path, shield=shield)), nothing)
    rows = [as_json(row) for row in attempts(joined)]
    of = {tuple(row["members"]): row for row in rows if not row["recorded"]}
    both = of["key holder", "inference server"]

    assert joined.material.shield == shield
    assert both["key"]["recovered"]
    assert both["pictures"]["by"] == WITH_KEY
    assert 0.3 < both["pictures"]["ssim"] < 0.98
    best = max(row["pictures"]["ssim"] or 0 for row in rows)
    assert best < both["pictures"]["ssim"] + 0.05


def test_the_command_attacks_a_run_behind_its_shield(tmp_path: Path) -> None:
    shield = shield_named("highpass:1", load("digits", "train").images, DIGITS, 2)
    made = Made(tmp_path, shield=shield)
    out = ["--out", str(tmp_path / "out"), "--images", "12"]

    done = CliRunner().invoke(build(), ["leakage", str(made.workspace.root), *out])

    assert done.exit_code == 0, done.output
    assert "3 of 4 numbers a block" in done.output
    report = json.loads((tmp_path / "out" / "leakage.json").read_text())
    assert report["shield"]["spec"] == "highpass:1"
    assert len(report["coalitions"]) == 17


def test_the_server_has_all_that_follows_the_embedding(made: Made) -> None:
    """And public pictures in numbers, where the run is attacked thoroughly."""
    material = read_run(replace(plan(made), thorough=True), nothing).material
    _, backbone = take_apart(initialise(SIZES, 0))

    assert material.served is not None
    assert material.served.backbone.keys() == backbone.keys()
    assert all(
        np.array_equal(tensor, backbone[name])
        for name, tensor in material.served.backbone.items()
    )
    assert material.crowd is not None
    assert material.crowd.labels is not None
    assert len(material.crowd.pictures) > 1000
    assert read_run(plan(made), nothing).material.crowd is None


def test_another_owner_can_be_named(made: Made) -> None:
    joined = read_run(plan(made, "archive"), nothing)

    assert joined.facts["victim"] == "archive.digits v1"
    assert joined.facts["member"] == "post-office.digits v1"
    with pytest.raises(KeymixerError):
        read_run(plan(made, "nobody"), nothing)


def test_a_public_embedding_is_everybodys(tmp_path: Path) -> None:
    made = Made(tmp_path, public=True)
    outsider = next(attempts(read_run(plan(made), nothing)))

    assert outsider.result.embedding.recovered
    assert not outsider.result.key.recovered


def test_another_models_files_are_not_taken(made: Made) -> None:
    """By the digest of the embedding, and of the whole manifest."""
    other = replace(made.manifest, embedding_digest="0" * 64)
    workspace = made.workspace

    holder = key_holder_holds(workspace.server_folder(KEY_HOLDER), other)
    assert holder.embedding is None
    server = workspace.server_folder(INFERENCE_SERVER)
    assert not server_holds(server, other).issued
    with pytest.raises(NotFound, match="no backbone"):
        backbone_held(server, other)
    with pytest.raises(NotFound, match="no release"):
        provider_holds(
            workspace.folder(workspace.federation.only(MODEL_PROVIDER)), other
        )


def test_without_its_key_encryption_key_the_folder_gives_nothing(
    made: Made, tmp_path: Path
) -> None:
    """What is said of a leaked database: the attack goes through the front door."""
    holder, owner = tmp_path / "key-holder", tmp_path / "owner"
    shutil.copytree(made.workspace.server_folder(KEY_HOLDER), holder)
    shutil.copytree(made.workspace.owner_folder("archive"), owner)
    for folder in (holder, owner):
        (folder / "kek.key").write_bytes(bytes(32))

    for read, folder in ((key_holder_holds, holder), (owner_holds, owner)):
        with pytest.raises(KeymixerError):
            read(folder, made.manifest)


def test_looking_changes_nothing_in_a_servers_folder(made: Made) -> None:
    """A server that runs may be in the middle of a write."""
    folder = made.workspace.server_folder(INFERENCE_SERVER)
    unfinished = folder / "issued" / ".unfinished"
    unfinished.write_bytes(b"")

    server_holds(folder, made.manifest)

    assert unfinished.exists()


def test_a_scenario_finds_its_newest_run_that_ended(tmp_path: Path) -> None:
    for name, content in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "a")):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "federation.yaml").write_text(content)
        if name != "4":
            (run / "report.json").write_text("{}")
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "c.yaml").write_text("c")

    found = find_run(tmp_path / "a.yaml", tmp_path / "runs")

    assert found == tmp_path / "runs" / "2"
    assert find_run(tmp_path / "c.yaml", tmp_path / "runs") is None


def test_one_owner_alone_is_no_federation_to_attack(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for path in (made.store._issued).glob("*.json"):
        if "archive" not in path.name:
            path.unlink()

    with pytest.raises(DataError, match="two data owners"):
        read_run(plan(made), nothing)

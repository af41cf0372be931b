"""The promise of the design, section 2: who may see what, searched byte by byte.

A federation of real processes runs over mutual TLS. A tap keeps every message each
party receives, and at the end every file and log it wrote is read as well. Then each
secret is searched, in every form it could have, wherever the promise says `never`.
"""

import base64
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from core.blocks import encrypt, to_blocks
from core.pixels import PixelKey
from core.preprocessing import normalise
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
    SpiffeId,
)
from core.transform import transform_embedding
from core.wire import load_tensors
from orchestrator.simulation.asking import ask
from orchestrator.simulation.narrator import Narrator
from orchestrator.simulation.run import running
from orchestrator.simulation.setup import Stage, bring_up
from orchestrator.simulation.training import release_folder
from orchestrator.simulation.workspace import create_workspace
from parties.data_owner.keyring import Keyring
from parties.model_provider.release import read_release
from tests.federation.needles import (
    Needle,
    of_array,
    of_bytes,
    of_images,
    search,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO = Path(__file__).with_name("visibility.yaml")
TAPPED = (sys.executable, "-m", "tests.federation.tapped")
OWNERS = ("ward-one", "ward-two")


@dataclass(frozen=True)
class Evidence:
    """What was left behind: the stage, its secrets, and what each party received."""

    stage: Stage
    secrets: dict[str, list[Needle]]
    tap: Path

    def files(self, party: SpiffeId) -> list[Path]:
        """Every file and log a party wrote."""
        names = {p.name for p in self.stage.running.seen if _acts_for(p.name, party)}
        logs = [self.stage.workspace.logs / f"{name}.log" for name in names]
        folder = self.stage.workspace.folder(party)
        return [*logs, *(f for f in folder.rglob("*") if f.is_file())]

    def messages(self, party: SpiffeId) -> list[Path]:
        """Every message a party received."""
        pids = {p.pid for p in self.stage.running.seen if _acts_for(p.name, party)}
        return [f for f in self.tap.iterdir() if int(f.stem.rpartition("-")[2]) in pids]


def _acts_for(process: str, party: SpiffeId) -> bool:
    return process == party.role or process.startswith(f"{party.organisation}-")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    root, tap = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("tap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYMIXER_TAP", str(tap))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        workspace = create_workspace(root, SCENARIO)
        narrator = Narrator(Console(file=io.StringIO()))
        with running(workspace, narrator, "digits", TAPPED) as stage:
            bring_up(stage, retrain=True)
            _give_telling_images(stage)
            ask(stage)
        yield Evidence(stage, _secrets(stage), tap)


def _give_telling_images(stage: Stage) -> None:
    """Pictures without empty margins, so that any run of pixels gives one away."""
    for seed, owner in enumerate(OWNERS):
        random = np.random.default_rng(seed)
        path = stage.workspace.owner_folder(owner) / "images.npz"
        count = len(np.load(path)["labels"])
        images = random.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        np.savez(path, images=images, labels=np.zeros(count, np.int64))


def _secrets(stage: Stage) -> dict[str, list[Needle]]:
    release = read_release(release_folder(stage.workspace, stage.model))
    weight = load_tensors(release.embedding)["weight"]
    backbone = load_tensors(release.backbone)
    secrets = {
        "embedding": [*of_array("embedding", weight.reshape(len(weight), -1))],
        "backbone": [
            needle
            for name, tensor in backbone.items()
            if tensor.ndim > 1
            for needle in of_array(name, tensor.reshape(len(tensor), -1))
        ],
    }
    for owner in OWNERS:
        secrets |= _secrets_of(stage, owner, weight)
    return secrets


def _secrets_of(
    stage: Stage, owner: str, weight: np.ndarray
) -> dict[str, list[Needle]]:
    folder = stage.workspace.owner_folder(owner)
    release = read_release(release_folder(stage.workspace, stage.model))
    key_id = f"{owner}.digits"
    keyring = Keyring(folder)
    key, seed = keyring.key(key_id, 1), keyring._open(key_id, 1)[1]
    pixels = np.load(folder / "images.npz")["images"]
    plain = normalise(pixels, release.manifest.preprocessing)
    blocks = to_blocks(plain, 4)
    # The owner's client folds the normalisation into the key, which rounds otherwise.
    folded = PixelKey.of(key, release.manifest.preprocessing)
    return {
        f"images of {owner}": [
            *of_images("images", pixels, plain),
            *of_array("blocks", blocks.reshape(-1, 16)),
        ],
        f"seed of {owner}": of_bytes("seed", seed),
        f"matrix of {owner}": [
            *of_array("matrix", key.matrix),
            *of_array("folded", folded.matrix),
        ],
        f"issued to {owner}": [*of_array("issued", transform_embedding(weight, key))],
        f"encrypted by {owner}": [
            *of_array("encrypted", encrypt(plain, key).reshape(-1, 16)),
            *of_array("encrypted", folded.encrypt(pixels).reshape(-1, 16)),
        ],
        f"answers to {owner}": [
            *of_array("logits", np.load(folder / "answers.npz")["logits"])
        ],
    }


IMAGES = tuple(f"images of {owner}" for owner in OWNERS)
SEEDS = tuple(f"seed of {owner}" for owner in OWNERS)
MATRICES = tuple(f"matrix of {owner}" for owner in OWNERS)
ISSUED = tuple(f"issued to {owner}" for owner in OWNERS)
ENCRYPTED = tuple(f"encrypted by {owner}" for owner in OWNERS)
ANSWERS = tuple(f"answers to {owner}" for owner in OWNERS)
TRAFFIC = (*ENCRYPTED, *ANSWERS)
KEYS = (*SEEDS, *MATRICES)

# Role -> what it must never receive, and what it must never have on disk.
NEVER_RECEIVED = {
    MODEL_PROVIDER: (*IMAGES, *KEYS, *ISSUED, *TRAFFIC),
    KEY_HOLDER: (*IMAGES, *KEYS, "backbone", *TRAFFIC),
    INFERENCE_SERVER: (*IMAGES, *KEYS, "embedding"),
    ORCHESTRATOR: (*IMAGES, *KEYS, "embedding", "backbone", *ISSUED, *TRAFFIC),
}
NEVER_WRITTEN = {
    **NEVER_RECEIVED,
    # It may see embeddings and keys, but at rest they are encrypted.
    KEY_HOLDER: (*NEVER_RECEIVED[KEY_HOLDER], "embedding", *ISSUED),
}


@pytest.mark.parametrize("role", NEVER_RECEIVED)
def test_a_party_receives_nothing_it_must_not_see(
    evidence: Evidence, role: str
) -> None:
    messages = evidence.messages(evidence.stage.workspace.federation.only(role))
    never = [
        needle for what in NEVER_RECEIVED[role] for needle in evidence.secrets[what]
    ]

    assert messages
    assert [] == search(messages, never)


@pytest.mark.parametrize("role", NEVER_WRITTEN)
def test_a_party_writes_nothing_it_must_not_see(evidence: Evidence, role: str) -> None:
    files = evidence.files(evidence.stage.workspace.federation.only(role))
    never = [
        needle for what in NEVER_WRITTEN[role] for needle in evidence.secrets[what]
    ]

    assert files
    assert [] == search(files, never)


@pytest.mark.parametrize("owner", OWNERS)
def test_an_owner_sees_nothing_of_another_owner_and_nothing_of_the_model(
    evidence: Evidence, owner: str
) -> None:
    """Its own key it may know; on its disk even that is encrypted."""
    party = evidence.stage.workspace.owner(owner)
    (other,) = set(OWNERS) - {owner}
    others = [what for what in evidence.secrets if what.endswith(other)]
    never = [*others, "embedding", "backbone", f"issued to {owner}"]
    never_written = [*never, f"seed of {owner}", f"matrix of {owner}"]

    received = search(evidence.messages(party), _of(evidence, never))
    written = search(evidence.files(party), _of(evidence, never_written))

    assert [] == received
    assert [] == written


def _of(evidence: Evidence, names: list[str]) -> list[Needle]:
    return [needle for name in names for needle in evidence.secrets[name]]


@pytest.mark.parametrize(
    ("role", "what"),
    [
        (KEY_HOLDER, "embedding"),
        (INFERENCE_SERVER, "backbone"),
        (INFERENCE_SERVER, "issued to ward-one"),
        (INFERENCE_SERVER, "encrypted by ward-two"),
    ],
)
def test_the_tap_hears_what_a_party_may_receive(
    evidence: Evidence, role: str, what: str
) -> None:
    """Otherwise an empty search would prove nothing."""
    party = evidence.stage.workspace.federation.only(role)

    assert search(evidence.messages(party), evidence.secrets[what])


def test_an_owner_receives_its_own_answers(evidence: Evidence) -> None:
    party = evidence.stage.workspace.owner("ward-one")

    assert search(evidence.messages(party), evidence.secrets["answers to ward-one"])


def test_the_files_are_searched_where_secrets_may_lie(evidence: Evidence) -> None:
    """The provider's release, the server's store and the owner's pictures are found."""
    federation = evidence.stage.workspace.federation
    provider = evidence.files(federation.only(MODEL_PROVIDER))
    server = evidence.files(federation.only(INFERENCE_SERVER))
    owner = evidence.files(federation.spiffe("ward-one", DATA_OWNER))

    assert search(provider, evidence.secrets["embedding"])
    assert search(server, evidence.secrets["issued to ward-two"])
    assert search(owner, evidence.secrets["images of ward-one"])


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "uint8"])
def test_a_planted_secret_is_found_whatever_its_type(
    evidence: Evidence, tmp_path: Path, dtype: str
) -> None:
    """Planted as whole arrays in the middle of a file, not as the needles."""
    leak = tmp_path / "cache.bin"
    for what, array in _arrays(evidence.stage).items():
        leak.write_bytes(b"\x00" * 5 + _as(array, dtype).tobytes() + b"\xff" * 5)

        assert search([leak], evidence.secrets[what]), what


@pytest.mark.parametrize("form", ["raw", "hex", "base64"])
def test_a_planted_seed_is_found_in_a_log_line(
    evidence: Evidence, tmp_path: Path, form: str
) -> None:
    seed = Keyring(evidence.stage.workspace.owner_folder("ward-one"))._open(
        "ward-one.digits", 1
    )[1]
    forms = {
        "raw": seed,
        "hex": seed.hex().encode(),
        "base64": base64.b64encode(seed),
    }
    leak = tmp_path / "party.log"
    leak.write_bytes(b'{"message": "' + forms[form] + b'"}')

    assert search([leak], evidence.secrets["seed of ward-one"])


def _arrays(stage: Stage) -> dict[str, np.ndarray]:
    """The secrets as somebody careless would write them."""
    folder = stage.workspace.owner_folder("ward-one")
    release = read_release(release_folder(stage.workspace, stage.model))
    weight = load_tensors(release.embedding)["weight"]
    key = Keyring(folder).key("ward-one.digits", 1)
    pixels = np.load(folder / "images.npz")["images"]
    plain = normalise(pixels, release.manifest.preprocessing)
    return {
        "embedding": weight,
        "matrix of ward-one": key.matrix,
        "issued to ward-one": transform_embedding(weight, key),
        "encrypted by ward-one": encrypt(plain, key),
        "answers to ward-one": np.load(folder / "answers.npz")["logits"],
    }


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "uint8":
        return array.astype(dtype)
    low, high = float(array.min()), float(array.max())
    scaled = np.round((array.astype(np.float64) - low) / (high - low) * 255)
    return scaled.astype(np.uint8)


def test_a_planted_picture_is_found_as_pixels_and_as_floats(
    evidence: Evidence, tmp_path: Path
) -> None:
    folder = evidence.stage.workspace.owner_folder("ward-one")
    pixels = np.load(folder / "images.npz")["images"]
    for form in (
        pixels,
        (pixels / 255.0).astype("<f4"),
        (pixels / 255.0).astype("<f2"),
    ):
        leak = tmp_path / "leak"
        leak.write_bytes(form.tobytes())

        assert search([leak], evidence.secrets["images of ward-one"])

"""`keymixer predict` and `encrypt` on a person's own files."""

import base64
import hmac
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from typer.testing import CliRunner

from core.blocks import decrypt
from core.encoding import FP16, FP32, UINT8
from core.errors import ConfigurationError, NotAnImageError, SignatureError
from core.preprocessing import denormalise
from core.receipt import parse_receipt, verify_receipt
from core.wire import load_tensors
from parties.data_owner import __main__ as acts
from parties.data_owner import client as clients
from parties.data_owner import commands
from parties.data_owner.client import Client
from parties.data_owner.commands import app, find_owner
from tests.unit.parties.owner_world import (
    CLASSES,
    PREPROCESSING,
    World,
    client_of,
    plain_answer,
    served,
)

PIXELS = np.random.default_rng(7).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """The client the commands open, with an active key."""
    with served(world) as channels:
        client = client_of(channels, tmp_path / "owner")
        client.register()
        world.create()
        client.sync_keys()
        world.activate(1)

        @contextmanager
        def opened(_folder: Path, _model: str | None = None) -> Iterator[Client]:
            yield client

        for module in (clients, acts):
            monkeypatch.setattr(module, "open_client", opened)
        yield client


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", tmp_path / "x.png"]
    for path, pixels in zip(paths, PIXELS, strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def owner(tmp_path: Path) -> tuple[str, str]:
    return "--owner-folder", str(tmp_path / "owner")


def test_predict_writes_a_receipt_of_every_request(
    client: Client, files: list[str], tmp_path: Path
) -> None:
    """With the two files, and no network, the record is shown to be of this answer."""
    folder = tmp_path / "receipts"
    done = run("predict", *files, *owner(tmp_path), "--receipts", str(folder))

    assert done.exit_code == 0
    (path,) = folder.glob("*.tlog-proof")
    said = json.loads(path.with_suffix(".json").read_bytes())
    proof = parse_receipt(path.read_bytes())
    verify_receipt(proof, proof.extra, bytes.fromhex(said["log_public_key"]))
    facts = json.loads(proof.extra)["subject"]
    result = base64.b64decode(said["result"])
    digest = hmac.digest(bytes.fromhex(said["audit_nonce"]), result, "sha256").hex()
    assert digest == facts["result_digest"]
    assert said["request_digest"] == facts["request_digest"]
    assert np.allclose(
        plain_answer(PIXELS), np.frombuffer(result, "<f4").reshape(3, 3), atol=1e-5
    )
    assert client.log_key.hex() == said["log_public_key"]


@pytest.mark.usefixtures("client")
def test_predict_names_the_plain_models_class(files: list[str], tmp_path: Path) -> None:
    result = run("predict", *files, *owner(tmp_path), "--json")

    rows = json.loads(result.stdout)
    expected = [CLASSES[index] for index in plain_answer(PIXELS).argmax(1)]
    assert expected == [row["class"] for row in rows]
    assert files == [row["file"] for row in rows]
    # Each is rounded to six digits.
    off = len(CLASSES) * 5e-7
    assert all(
        sum(row["probabilities"].values()) == pytest.approx(1, abs=off) for row in rows
    )
    assert {"st-anna.cells v1"} == {row["key"] for row in rows}


def many(folder: Path, count: int) -> np.ndarray:
    """Pictures in a folder, beside a file that is none."""
    pixels = np.random.default_rng(8).integers(0, 256, (count, 8, 8, 3), np.uint8)
    folder.mkdir()
    (folder / "readme.txt").write_text("not a picture")
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number:04}.png")
    return pixels


@pytest.mark.usefixtures("client")
def test_predict_asks_about_a_folder_over_a_stream(
    world: World, tmp_path: Path
) -> None:
    """More requests than are on their way at once anyway: there a stream pays."""
    pixels = many(tmp_path / "many", 130)
    result = run("predict", str(tmp_path / "many"), *owner(tmp_path), "--json")

    rows = json.loads(result.stdout)
    assert [f"{number:04}.png" for number in range(130)] == [
        Path(row["file"]).name for row in rows
    ]
    expected = [CLASSES[index] for index in plain_answer(pixels).argmax(1)]
    assert expected == [row["class"] for row in rows]
    assert world.streams == 1


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("options", "streams"), [([], 0), (["--bulk"], 1), (["--no-bulk"], 0)]
)
def test_predict_asks_about_a_few_in_calls_unless_told_to_stream(
    world: World, files: list[str], tmp_path: Path, options: list[str], streams: int
) -> None:
    done = run("predict", *files, *owner(tmp_path), *options)

    assert done.exit_code == 0
    assert world.streams == streams


@pytest.mark.usefixtures("client")
def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty holds no PNG or JPEG"):
        run("predict", str(tmp_path / "empty"), *owner(tmp_path))


@pytest.mark.usefixtures("client")
def test_predict_prints_a_table_for_people(files: list[str], tmp_path: Path) -> None:
    result = run("predict", files[2], *owner(tmp_path))

    assert result.exit_code == 0
    assert CLASSES[plain_answer(PIXELS[2:])[0].argmax()] in result.stdout


def test_encrypt_writes_what_a_server_would_get_and_sends_nothing(
    client: Client, world: World, files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "encrypted"

    run("encrypt", *files, "--out", str(out), *owner(tmp_path))

    assert not world.asked
    assert ["cat", "cat-2", "x"] == sorted(p.stem for p in out.glob("*.safetensors"))
    blocks = load_tensors(out / "cat-2.safetensors")["encrypted_blocks"]
    plain = decrypt(blocks[np.newaxis], client.use().key)
    assert np.array_equal(PIXELS[1:2], denormalise(plain, PREPROCESSING))
    view = Image.open(io.BytesIO((out / "x.png").read_bytes()))
    assert view.size == (256, 256)


@pytest.mark.usefixtures("client")
def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")

    with pytest.raises(NotAnImageError, match=r"notes\.png"):
        run("predict", str(tmp_path / "notes.png"), *owner(tmp_path))


@pytest.mark.parametrize("command", ["predict", "encrypt"])
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    shown = " ".join(run(command, "--help").stdout.split())

    assert f"Example: keymixer {command}" in shown
    assert "3 refused" in shown


def test_predicts_help_says_first_what_is_not_protected() -> None:
    shown = " ".join(run("predict", "--help").stdout.split())

    assert shown.index("does not hide them from a server") < shown.index("Example")


def test_the_only_owner_of_a_run_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "owners" / "st-anna").mkdir(parents=True)

    assert tmp_path / "owners" / "st-anna" == find_owner(None, tmp_path, None)


def test_one_of_several_owners_must_be_named(tmp_path: Path) -> None:
    for name in ("st-anna", "archive"):
        (tmp_path / "owners" / name).mkdir(parents=True)

    assert tmp_path / "owners" / "archive" == find_owner(None, tmp_path, "archive")
    with pytest.raises(ConfigurationError, match="--owner: archive, st-anna"):
        find_owner(None, tmp_path, None)
    with pytest.raises(ConfigurationError, match="is none of"):
        find_owner(None, tmp_path, "../../etc")


def test_without_a_run_the_error_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keymixer up"):
        find_owner(None, tmp_path, None)
    with pytest.raises(ConfigurationError, match="is no folder"):
        find_owner(tmp_path / "gone", tmp_path, None)


@pytest.fixture
def dealt(tmp_path: Path) -> str:
    np.savez(tmp_path / "images.npz", images=PIXELS, labels=np.arange(3))
    return str(tmp_path / "images.npz")


def act(*arguments: str) -> list[dict[str, object]]:
    """Run one act of a simulation and return its events."""
    result = CliRunner().invoke(acts.app, arguments, catch_exceptions=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("client")
def test_ask_saves_logits_and_labels_and_counts(dealt: str, tmp_path: Path) -> None:
    out = tmp_path / "answers.npz"

    events = act(
        *("ask", "--folder", str(tmp_path), "--images", dealt),
        *("--out", str(out), "--batch", "2"),
    )

    assert events[0]["event"] == "progress"
    done = events[-1]
    assert (done["images"], done["requests"], done["failed"]) == (3, 2, 0)
    with np.load(out) as answers:
        assert np.allclose(plain_answer(PIXELS), answers["logits"], atol=1e-5)
        assert answers["logits"].dtype == np.float32
        assert answers["labels"].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("client")
def test_a_wrong_key_gives_other_answers(dealt: str, tmp_path: Path) -> None:
    out = tmp_path / "wrong.npz"

    done = act(
        *("ask-wrong-key", "--folder", str(tmp_path), "--images", dealt),
        *("--out", str(out), "--count", "2"),
    )[-1]

    assert done["images"] == 2
    with np.load(out) as answers:
        assert not np.allclose(plain_answer(PIXELS[:2]), answers["logits"], atol=1e-2)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("key_id", "version", "kind"),
    [("another.cells", "1", "NotAllowed"), ("st-anna.cells", "9", "KeyRefused")],
)
def test_a_key_that_is_not_ones_own_is_refused_on_a_blank_picture(
    tmp_path: Path, world: World, key_id: str, version: str, kind: str
) -> None:
    events = act(
        *("ask-with-key", "--folder", str(tmp_path)),
        *("--key-id", key_id, "--version", version),
    )

    assert events[-1]["refusal"] == kind
    (asked,) = world.asked
    assert len(asked.raw_input_contents[0]) == 4 * 8 * 8 * 3


@pytest.mark.usefixtures("client")
def test_a_request_that_should_be_refused_and_is_not_fails(tmp_path: Path) -> None:
    with pytest.raises(acts.NotRefusedError):
        act("ask-with-key", "--folder", str(tmp_path), "--key-id", "st-anna.cells")


@pytest.mark.usefixtures("client")
def test_samples_show_four_views(dealt: str, tmp_path: Path) -> None:
    out = tmp_path / "samples.npz"

    act(
        *("samples", "--folder", str(tmp_path), "--images", dealt),
        *("--out", str(out), "--count", "2"),
    )

    with np.load(out) as views:
        assert all(
            views[name].shape == (2, 8, 8, 3) for name in views if name != "labels"
        )
        assert np.array_equal(PIXELS[:2], views["plain"])
        assert np.array_equal(PIXELS[:2], views["decrypted"])
        for name in ("encrypted", "wrong"):
            assert (views[name] != PIXELS[:2]).mean() > 0.9


@pytest.mark.usefixtures("client")
def test_keys_waits_until_the_key_may_be_used(tmp_path: Path) -> None:
    (ready,) = act("keys", "--folder", str(tmp_path))

    assert ("st-anna.cells", 1) == (ready["key_id"], ready["key_version"])


def test_the_owners_keys_act_tells_of_a_bad_successor(
    client: Client, world: World, tmp_path: Path
) -> None:
    """It is asked for explicitly; requests go on under the version that serves."""
    world.create(2)
    world.signs_with = Ed25519PrivateKey.generate()

    with pytest.raises(SignatureError):
        acts.keys(tmp_path)
    assert client.use(fresh=True).key.version == 1


@pytest.mark.parametrize(
    ("wire", "datatype"), [("float32", FP32), ("float16", FP16), ("uint8", UINT8)]
)
def test_predict_sends_pictures_as_it_is_told(
    world: World,
    client: Client,
    files: list[str],
    tmp_path: Path,
    *,
    wire: str,
    datatype: str,
) -> None:
    """Whatever the owner's settings say."""
    client.datatype = FP16 if datatype == FP32 else FP32
    done = run("predict", *files, *owner(tmp_path), "--wire", wire)

    assert done.exit_code == 0
    assert {datatype} == {each.inputs[0].datatype for each in world.asked}


def test_predict_sends_pictures_as_the_settings_say_if_it_is_not_told(
    world: World, client: Client, files: list[str], tmp_path: Path
) -> None:
    client.datatype = UINT8
    run("predict", *files, *owner(tmp_path))

    assert {UINT8} == {each.inputs[0].datatype for each in world.asked}


@pytest.mark.usefixtures("client")
def test_a_datatype_that_there_is_not_sends_nothing(
    world: World, files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="float32, float16, uint8"):
        run("predict", *files, *owner(tmp_path), "--wire", "float64")

    assert not world.asked


@pytest.mark.parametrize("way", ["--bulk", "--no-bulk"])
@pytest.mark.usefixtures("client")
def test_the_bar_comes_to_its_end_picture_by_picture(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    seen: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
        steps: list[int] = []
        seen.append((what, total, steps))
        yield steps.append

    monkeypatch.setattr(commands, "progress_bar", bar)
    monkeypatch.setattr(commands, "_BATCH", 2)
    run("predict", *files, *owner(tmp_path), way)

    assert [("asked about", 3, [2, 1])] == seen

"""CIFAR-10's sources, on a stand-in of two images a batch with digests of its own."""

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import cifar10, cifar10_archive
from core.datasets.cifar10 import Sources, load_cifar10, sources_from_environment
from core.errors import DataError

NAMES = tuple(cifar10_archive.DIGESTS)
Batches = Mapping[str, np.ndarray]


def silent(_what: str, _done: int, _total: int | None) -> None:
    pass


def archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Six batches of two rows, and their digests in place of the published ones."""
    random = np.random.default_rng(1)
    made = {name: random.integers(0, 10, (2, 3073), np.uint8) for name in NAMES}
    digests = {n: hashlib.sha256(b.tobytes()).hexdigest() for n, b in made.items()}
    for module in (cifar10, cifar10_archive):
        monkeypatch.setattr(module, "DIGESTS", digests)
        monkeypatch.setattr(module, "ROWS", 2)
    return made


@pytest.fixture
def official(tmp_path: Path, batches: Batches) -> Path:
    """An archive like the authors', with members nobody asked for."""
    members = {f"cifar-10-batches-bin/{n}.bin": b.tobytes() for n, b in batches.items()}
    members["../../escaped.bin"] = b"out of the folder"
    return archive(tmp_path / "cifar-10-binary.tar.gz", members)


@pytest.fixture
def package(tmp_path: Path, batches: Batches) -> Path:
    """A package like npm's: PNG sheets of one image a row, and labels in JSON."""
    members: dict[str, bytes] = {}
    for name, rows in batches.items():
        sheet = np.zeros((2, 1024, 3), np.uint8)
        for image in range(2):
            for pixel in range(1024):
                for colour in range(3):
                    sheet[image, pixel, colour] = rows[image, 1 + colour * 1024 + pixel]
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "PNG")
        members[f"package/{name}.png"] = file.getvalue()
    labels = [int(row[0]) for name in NAMES for row in batches[name]]
    members["package/train_lables.json"] = json.dumps(labels[:10]).encode()
    members["package/test_lables.json"] = json.dumps(labels[10:]).encode()
    return archive(tmp_path / "package.tgz", members)


@pytest.fixture
def nowhere(tmp_path: Path) -> Sources:
    """An empty cache, no npm, and an address where nobody listens."""
    return Sources(
        cache=tmp_path / "cache", npm=None, archive_url="http://127.0.0.1:9/none"
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def fake_npm(folder: Path, script: str) -> str:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def check(batches: Batches, sources: Sources) -> None:
    """Both splits are what the batches say, pixel by pixel."""
    test = load_cifar10("test", silent, sources)
    train = load_cifar10("train", silent, sources)
    rows = np.concatenate([batches[name] for name in NAMES[:5]])

    assert batches["test_batch"][:, 0].tolist() == test.labels.tolist()
    assert rows[:, 0].tolist() == train.labels.tolist()
    for image, row in zip(train.images, rows, strict=True):
        for colour in range(3):
            plane = row[1 + colour * 1024 : 1 + (colour + 1) * 1024]
            assert np.array_equal(plane.reshape(32, 32), image[:, :, colour])


def test_without_network_and_cache_the_error_says_what_to_do(nowhere: Sources) -> None:
    with pytest.raises(DataError) as caught:
        load_cifar10("test", silent, nowhere)

    said = str(caught.value)
    assert all(
        w in said for w in ("npm is not installed", "KEYMIXER_CIFAR10", "--data")
    )


def test_the_npm_package_gives_the_batches(
    package: Path, batches: Batches, nowhere: Sources
) -> None:
    check(batches, replace(nowhere, given=package))


def test_the_official_archive_gives_the_batches(
    official: Path, batches: Batches, nowhere: Sources
) -> None:
    check(batches, replace(nowhere, given=official))


def test_a_folder_of_batches_gives_the_batches(
    tmp_path: Path, batches: Batches, nowhere: Sources
) -> None:
    for name, rows in batches.items():
        (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())

    check(batches, replace(nowhere, given=tmp_path))


def test_the_official_archive_comes_over_http(
    official: Path, batches: Batches, nowhere: Sources, server: str
) -> None:
    check(batches, replace(nowhere, archive_url=f"{server}/{official.name}"))


def test_npm_comes_before_the_authors_site(
    package: Path,
    batches: Batches,
    nowhere: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "_PACKAGE_DIGEST", digest)

    check(batches, replace(nowhere, npm=fake_npm(tmp_path, f"cp {package} .")))


def test_a_failing_npm_gives_way_to_the_authors_site(
    official: Path, batches: Batches, nowhere: Sources, server: str, tmp_path: Path
) -> None:
    url = f"{server}/{official.name}"

    check(
        batches,
        replace(nowhere, npm=fake_npm(tmp_path, "exit 1"), archive_url=url),
    )


def test_a_package_with_another_digest_is_refused(
    package: Path, nowhere: Sources, tmp_path: Path
) -> None:
    npm = fake_npm(tmp_path, f"cp {package} .")

    with pytest.raises(DataError, match="whose SHA-256 differs"):
        load_cifar10("test", silent, replace(nowhere, npm=npm))


def test_an_npm_that_hangs_is_ended(nowhere: Sources, tmp_path: Path) -> None:
    npm = fake_npm(tmp_path, "exec sleep 60")

    with pytest.raises(DataError, match="did not end within"):
        load_cifar10("test", silent, replace(nowhere, npm=npm, timeout_s=0.3))


def test_the_cache_is_enough(
    official: Path, batches: Batches, nowhere: Sources
) -> None:
    load_cifar10("test", silent, replace(nowhere, given=official))

    check(batches, nowhere)


def test_a_damaged_cache_is_fetched_again(
    official: Path, batches: Batches, nowhere: Sources
) -> None:
    sources = replace(nowhere, given=official)
    load_cifar10("test", silent, sources)
    (nowhere.cache / "test_batch.bin").write_bytes(b"damaged")

    check(batches, sources)


def test_a_changed_batch_is_refused_and_not_kept(
    tmp_path: Path, batches: Batches, nowhere: Sources
) -> None:
    for name, rows in batches.items():
        (tmp_path / f"{name}.bin").write_bytes(rows.tobytes()[::-1])

    with pytest.raises(DataError, match="SHA-256 differs"):
        load_cifar10("test", silent, replace(nowhere, given=tmp_path))
    assert not list(nowhere.cache.iterdir())


def test_an_archive_cannot_write_outside(
    official: Path, batches: Batches, nowhere: Sources, tmp_path: Path
) -> None:
    check(batches, replace(nowhere, given=official))

    assert not list(tmp_path.parent.rglob("escaped.bin"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08 damaged"])
def test_a_file_that_is_no_archive_is_refused(
    tmp_path: Path, nowhere: Sources, content: bytes
) -> None:
    (tmp_path / "given").write_bytes(content)

    with pytest.raises(DataError, match="archive"):
        load_cifar10("test", silent, replace(nowhere, given=tmp_path / "given"))


def test_a_path_that_is_not_there_is_named(nowhere: Sources, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"KEYMIXER_CIFAR10 is .*missing"):
        load_cifar10("test", silent, replace(nowhere, given=tmp_path / "missing"))


def test_the_environment_says_where(tmp_path: Path) -> None:
    environ = {
        "XDG_CACHE_HOME": str(tmp_path),
        "KEYMIXER_CIFAR10": "/given",
        "PATH": "",
    }

    sources = sources_from_environment(environ)

    assert tmp_path / "keymixer" / "cifar10" == sources.cache
    assert Path("/given") == sources.given


def test_the_real_images_are_balanced() -> None:
    """Only where this machine has fetched CIFAR-10 before."""
    cache = sources_from_environment(os.environ).cache
    if not (cache / "test_batch.bin").exists():
        pytest.skip("CIFAR-10 is not in the cache")

    test = load_cifar10("test", silent, Sources(cache=cache, archive_url=None))

    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.labels[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane

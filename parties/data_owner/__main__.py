"""A data owner's acts in a simulation: one process each, events as JSON lines."""

import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy import ndarray

from core.blocks import decrypt
from core.console import exit_code, print_error
from core.datasets.npz import load_arrays
from core.draws import RecordedEntropy, to_arrays
from core.errors import KeymixerError, PeerUnavailable, Refused
from core.keys import BlockKey, derive_key
from core.manifest import Manifest
from core.normals import bytes_for
from core.orthogonal import SEED_BYTES
from core.preprocessing import denormalise
from core.rpc.logs import configure
from core.shield import restore
from core.wire import write_atomically
from parties.data_owner.answers import Answers
from parties.data_owner.asking import Tally, ask_about
from parties.data_owner.client import Client, open_client
from parties.data_owner.crowd import Errand, run_errands
from parties.data_owner.errors import KeyNotReadyError, NoKeyError
from parties.data_owner.inference import Blocks, Pixels, Use
from parties.data_owner.packed import write_requests
from parties.data_owner.pictures import as_picture
from parties.data_owner.traffic import Asker, Log, keep_asking, until_told

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would print keys and pictures.
    pretty_exceptions_enable=False,
    help=__doc__,
)

_POLL_S: Final = 0.1
_PAUSE_S: Final = 0.2

Folder = Annotated[Path, typer.Option(help="The owner's own folder.")]
Images = Annotated[Path, typer.Option(help="An .npz with uint8 images and labels.")]
Out = Annotated[Path, typer.Option(help="The .npz to write.")]
Batch = Annotated[int, typer.Option(min=1, help="Images a request.")]


@app.command()
def keys(folder: Folder, timeout: float = 60.0) -> None:
    """Register the public keys, fetch and prove the key, wait until it may be used."""
    deadline = time.monotonic() + timeout
    with open_client(folder) as client:
        while True:
            try:
                client.register()
                client.sync_keys(every=True)
                use = client.use(fresh=True)
            except (NoKeyError, PeerUnavailable) as error:
                if time.monotonic() > deadline:
                    raise KeyNotReadyError(f"after {timeout:.0f} s: {error}") from error
                time.sleep(_POLL_S)
            else:
                emit("ready", **_named(use))
                return


@app.command()
def crowd(
    owners: Annotated[Path, typer.Option(help="A folder of owners' folders.")],
    version: Annotated[int, typer.Option(min=1, help="Of every owner's key.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Owners at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds, for each owner.")] = 600.0,
    *,
    register: bool = False,
) -> None:
    """Play many owners: each waits for a version of its key, fetches and proves it."""
    folders = sorted(path for path in owners.iterdir() if path.is_dir())
    often = Often()

    def tell(done: int) -> None:
        if often.due(anyway=done == len(folders)):
            emit("progress", done=done, total=len(folders))

    errand = Errand(version, timeout, register)
    run_errands(folders, errand, open_client, threads=threads, on_done=tell)
    emit("done", owners=len(folders), cpu_s=round(time.process_time(), 3))


@app.command()
def ask(folder: Folder, images: Images, out: Out, batch: Batch = 100) -> None:
    """Encrypt images in this process and ask about all of them, once.

    The noise of a shield, if there is any, is written beside the answers: the referee
    asks the plain model about the same.
    """
    pixels, labels = load_arrays(images)
    drawn = RecordedEntropy()
    with open_client(folder) as client:
        client.entropy = drawn
        shield = client.use().manifest.shield
        noisy = shield is not None and any(shield.deviations)

        def ask_once(part: Pixels) -> Answers:
            answers = client.predict(part, len(part))
            drawn.keep(bytes_for(len(part), part[0].size) if noisy else 0)
            return answers

        size = client.fitting(batch)
        tally = ask_about(pixels, size, ask_once, Progress(len(pixels)))
    _finish(out, labels, tally, drawn)


@app.command()
def pack(
    owners: Annotated[Path, typer.Option(help="A folder of owners' folders.")],
    images: Images,
    out: Annotated[str, typer.Option(help="The file to write in each of them.")],
    batch: Batch = 1,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many owners; default: all.")
    ] = None,
) -> None:
    """Write requests about images into files, for a load generator to send."""
    pixels, _ = load_arrays(images)
    folders = sorted(path for path in owners.iterdir() if path.is_dir())[:count]
    often = Often()
    for done, folder in enumerate(folders, start=1):
        with open_client(folder) as client:
            write_requests(folder / out, pixels, batch, client.use())
        if often.due(anyway=done == len(folders)):
            emit("progress", done=done, total=len(folders))
    emit("done", owners=len(folders))


@app.command()
def traffic(
    folder: Folder,
    images: Images,
    out: Annotated[Path, typer.Option(help="The file to write, one line a request.")],
    batch: Batch = 4,
    *,
    requests: Annotated[
        int | None, typer.Option(min=1, help="How many; default: until SIGTERM.")
    ] = None,
) -> None:
    """Ask without pause until told to stop, and write down every single request."""
    pixels, _ = load_arrays(images)
    with (
        out.open("w", encoding="utf-8") as file,
        open_client(folder) as client,
        until_told(requests) as over,
    ):
        log, often = Log(file), Often()
        asker = Asker(lambda part: client.predict(part, batch), lambda: client.sent)
        for asked in keep_asking(pixels, batch, asker, over):
            log.write(asked)
            if often.due():
                emit("progress", **log.facts())
    emit("done", **log.facts())


@app.command()
def ask_wrong_key(
    folder: Folder,
    images: Images,
    out: Out,
    batch: Batch = 100,
    count: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Name the own key on the wire, but encrypt with a random other matrix."""
    pixels, labels = (array[:count] for array in load_arrays(images))
    with open_client(folder) as client:
        use = client.use()
        wrong = Use(_another(use.key), use.model, use.model_version, use.manifest)

        def ask_wrong(part: Pixels) -> Answers:
            return client.ask(wrong.encrypt(part), wrong)

        tally = ask_about(pixels, batch, ask_wrong, Progress(len(pixels)))
    _finish(out, labels, tally)


@app.command()
def ask_with_key(folder: Folder, key_id: str = "", version: int = 1) -> None:
    """Name any key on the wire; a blank picture, as this is to be refused."""
    with open_client(folder) as client:
        try:
            _ask_blank(client, key_id, version)
        except KeymixerError as error:
            emit("refused", refusal=error.kind, key_id=key_id, key_version=version)
            return
    emit("answered", key_id=key_id, key_version=version)
    raise NotRefusedError(f"{key_id} version {version} was answered")


@app.command()
def samples(
    folder: Folder,
    images: Images,
    out: Out,
    count: Annotated[int, typer.Option(min=1)] = 6,
) -> None:
    """Show some images plain, encrypted, decrypted, and decrypted with a wrong key."""
    pixels, labels = (array[:count] for array in load_arrays(images))
    with open_client(folder) as client:
        use = client.use()
    _save(out, {**pictures_of(pixels, use), "labels": labels})
    emit("done", images=len(pixels))


def pictures_of(images: Pixels, use: Use) -> dict[str, ndarray]:
    """Four views of the same images, uint8 [n, height, width, channels] each."""
    blocks = use.encrypt(images)
    return {
        "plain": images,
        "encrypted": np.stack([as_picture(one, *use.manifest.block) for one in blocks]),
        "decrypted": _decrypted(blocks, use.key, use.manifest),
        "wrong": _decrypted(blocks, _another(use.key), use.manifest),
    }


def _decrypted(blocks: Blocks, key: BlockKey, manifest: Manifest) -> ndarray:
    """What a key gives back: of a shielded picture, what the shield left of it."""
    plain = decrypt(blocks, key)
    if manifest.shield is not None:
        plain = restore(plain, manifest.shield)
    return denormalise(plain, manifest.preprocessing)


def emit(event: str, **fields: Any) -> None:
    """Print one event as a line of JSON."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class NotRefusedError(Refused):
    """Something was answered that had to be refused."""

    hint = "the inference server does not check whose key a request names"


class Often:
    """Says when it is time to tell again: the first time, then a few times a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, *, anyway: bool = False) -> bool:
        """Whether to tell now."""
        now = time.monotonic()
        if now < self._next and not anyway:
            return False
        self._next = now + _PAUSE_S
        return True


class Progress:
    """Emits `progress` events: the first, the one that completes, a few a second."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._often = Often()
        self._completed = False

    def __call__(self, tally: Tally) -> None:
        done = int(tally.answered.sum())
        completed = done == self._total and not self._completed
        if not self._often.due(anyway=completed):
            return
        self._completed = done == self._total
        emit(
            "progress",
            done=done,
            total=self._total,
            requests=tally.requests,
            failed=tally.failures.total(),
            key_version=tally.version,
        )


def main() -> None:
    """Run one act; an error of ours becomes an event, a line and an exit code."""
    configure("WARNING")
    try:
        app()
    except KeymixerError as error:
        emit("error", kind=error.kind, message=str(error), next=error.hint)
        print_error(error, as_json=False)
        sys.exit(exit_code(error))


def _ask_blank(client: Client, key_id: str, version: int) -> None:
    model, manifest = client.any_model()
    sizes = manifest.architecture
    key = derive_key(
        os.urandom(SEED_BYTES),
        key_id=key_id,
        version=version,
        patch_size=sizes.patch_size,
        channels=sizes.channels,
    )
    p = manifest.preprocessing
    blank = np.zeros((1, p.height, p.width, p.channels), dtype=np.uint8)
    use = Use(key, model.name, model.version, manifest)
    client.ask(use.encrypt(blank), use)


def _another(key: BlockKey) -> BlockKey:
    """A key of the same name and size, with a matrix drawn just now."""
    return derive_key(
        os.urandom(SEED_BYTES),
        key_id=key.key_id,
        version=key.version,
        patch_size=key.patch_size,
        channels=key.channels,
    )


def _finish(
    out: Path, labels: ndarray, tally: Tally, drawn: RecordedEntropy | None = None
) -> None:
    if tally.logits is not None:
        draws = to_arrays(drawn.kept) if drawn is not None and drawn.kept else {}
        _save(out, {"logits": tally.logits, "labels": labels, **draws})
    emit("done", **tally.facts())


def _save(path: Path, arrays: Mapping[str, ndarray]) -> None:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_atomically(path, file.getvalue())


def _named(use: Use) -> dict[str, Any]:
    return {
        "key_id": use.key.key_id,
        "key_version": use.key.version,
        "model": use.model,
        "model_version": use.model_version,
    }


if __name__ == "__main__":
    main()

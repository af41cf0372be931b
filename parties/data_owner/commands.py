"""`keymixer predict` and `keymixer encrypt`: a person's own pictures.

Nothing heavy is imported before a command runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from core.console import EXIT_CODES, print_json, print_rows, progress_bar
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from core.manifest import Manifest
    from parties.data_owner.answers import Answers
    from parties.data_owner.client import Client

app = typer.Typer()

_LATEST: Final = Path("runs") / "latest"
_TOP: Final = 3
# Pictures a request, if they fit a message.
_BATCH: Final = 32

_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})

Files = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE...", help="PNG or JPEG; a folder: all in it."),
]
OwnerFolder = Annotated[
    Path | None, typer.Option("--owner-folder", help="The data owner's own folder.")
]
Run = Annotated[
    Path, typer.Option("--run", help="The run's folder.", envvar="KEYMIXER_RUN")
]
Owner = Annotated[
    str | None,
    typer.Option(
        "--owner", help="Which data owner of the run; its only one if left out."
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", help="Needed only with several models.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command(epilog=EXIT_CODES)
def predict(
    files: Files,
    owner_folder: OwnerFolder = None,
    run: Run = _LATEST,
    *,
    owner: Owner = None,
    model: Model = None,
    receipts: Annotated[
        Path | None,
        typer.Option("--receipts", help="A folder for proofs of what was answered."),
    ] = None,
    wire: Annotated[
        str | None,
        typer.Option(
            "--wire",
            help="What encrypted pictures travel as: float32, float16 or uint8; "
            "default: as in settings.json. docs/wire.md has their accuracy.",
        ),
    ] = None,
    bulk: Annotated[
        bool | None,
        typer.Option(
            help="Ask over a stream, or in calls of their own; default: a stream "
            "when there are many pictures.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Encrypt pictures on this machine and ask what is on them.

    keymixer hides pictures from people who only look at what the inference server
    receives or keeps, and mutual TLS keeps out everybody who is not part of the
    federation. It does not hide them from a server that attacks: from one encrypted
    picture such a server can usually recover most of what is on it, within seconds and
    without any key.

    What to use instead, and what it costs: docs/threat-model.md.

    With --receipts: for each request, REQUEST.tlog-proof proves that the audit log
    records it (`keymixer audit receipt verify`), and REQUEST.json says what of it the
    record's digests are made with (docs/audit.md).

    Example: keymixer predict cat.jpg folder-of-pictures --owner st-anna
    """
    from parties.data_owner.client import open_client
    from parties.data_owner.settings import read_datatype

    files = _pictures(files)
    with open_client(find_owner(owner_folder, run, owner), model) as client:
        if wire is not None:
            client.datatype = read_datatype(wire)
        answers = _ask(client, files, bulk)
        if receipts is not None:
            _write_receipts(client, answers, receipts)
    rows = _predictions(files, answers)
    columns = {"file": "picture", "class": "class", "likely": "probability"}
    if json_:
        print_json([{k: v for k, v in row.items() if k != "likely"} for row in rows])
    else:
        print_rows("Predictions", rows, columns, as_json=False)


@app.command(epilog=EXIT_CODES)
def encrypt(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
    owner_folder: OwnerFolder = None,
    run: Run = _LATEST,
    *,
    owner: Owner = None,
    model: Model = None,
    json_: AsJson = False,
) -> None:
    """Encrypt pictures on this machine and write what a server would be sent.

    For each picture: NAME.safetensors with the encrypted blocks, float32 [rows,
    columns, block], and NAME.png, a view of them for the eye. No picture is sent.

    Example: keymixer encrypt cat.jpg --out encrypted --owner st-anna
    """
    from parties.data_owner.client import open_client

    files = _pictures(files)
    with open_client(find_owner(owner_folder, run, owner), model) as client:
        use = client.use()
        blocks = use.encrypt(_read(client, files))
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "file": str(path),
            "key": f"{use.key.key_id} v{use.key.version}",
            **_write(out / name, one, use.manifest),
        }
        for path, name, one in zip(files, _distinct(files), blocks, strict=True)
    ]
    columns = {"file": "picture", "blocks": "blocks", "view": "view", "key": "key"}
    print_rows("Encrypted", rows, columns, as_json=json_)


def find_owner(folder: Path | None, run: Path, owner: str | None) -> Path:
    """Return an owner's folder: the one named, or an owner of a run.

    Raises:
        ConfigurationError: there is none, or several and none was named.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigurationError(f"--owner-folder: {folder} is no folder")
        return folder
    owners = run / "owners"
    found = sorted(p.name for p in owners.iterdir()) if owners.is_dir() else []
    if not found:
        raise ConfigurationError(
            f"{run} holds no data owners: start a federation with `keymixer up`, or"
            " name a folder with --owner-folder"
        )
    if owner is None and len(found) > 1:
        raise ConfigurationError(f"name one with --owner: {', '.join(found)}")
    chosen = owner or found[0]
    if chosen not in found:
        raise ConfigurationError(f"--owner: {chosen} is none of {', '.join(found)}")
    return owners / chosen


def _pictures(named: Sequence[Path]) -> list[Path]:
    """The files that are named, and in place of a folder the pictures in it."""
    inside = [_inside(path) if path.is_dir() else [path] for path in named]
    return [path for paths in inside for path in paths]


def _inside(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise ConfigurationError(f"{folder} holds no PNG or JPEG file")
    return sorted(found)


def _ask(client: "Client", files: Sequence[Path], bulk: bool | None) -> "Answers":
    """Ask about some files a request, several at a time; no more are in memory.

    As many as are asked at once anyway are not worth a stream.
    """
    from parties.data_owner.answers import joined
    from parties.data_owner.bulk import predict_many

    size = client.fitting(_BATCH)
    starts = range(0, len(files), size)
    batches = (_read(client, files[at : at + size]) for at in starts)
    if bulk is None:
        bulk = len(starts) > client.in_flight
    asked = (
        predict_many(client, batches)
        if bulk
        else client.predict_each(batches, client.in_flight)
    )
    parts = []
    with progress_bar("asked about", len(files)) as advance:
        for part in asked:
            parts.append(part)
            advance(len(part.logits))
    return joined(parts)


def _read(client: "Client", files: Sequence[Path]) -> Any:
    from parties.data_owner.images import read_images

    return read_images(files, client.use().manifest.preprocessing)


def _write_receipts(client: "Client", answers: "Answers", folder: Path) -> None:
    from parties.data_owner.answers import parted
    from parties.data_owner.receipts import write_receipt

    folder.mkdir(parents=True, exist_ok=True)
    proofs, key = client.redeem(answers.receipts), client.log_key
    for part, proof in zip(parted(answers), proofs, strict=True):
        write_receipt(folder, part, proof, key)


def _predictions(files: Sequence[Path], answers: "Answers") -> list[dict[str, Any]]:
    rows = []
    receipts = [receipt for receipt in answers.receipts for _ in range(receipt.images)]
    for path, shares, receipt in zip(
        files, answers.probabilities, receipts, strict=True
    ):
        order = shares.argsort()[::-1]
        named = {answers.classes[i]: round(float(shares[i]), 6) for i in order}
        likely = list(named.items())[:_TOP]
        rows.append(
            {
                "file": str(path),
                "class": likely[0][0],
                "likely": ", ".join(f"{name} {share:.1%}" for name, share in likely),
                "probabilities": named,
                "key": f"{receipt.key_id} v{receipt.key_version}",
                "model_version": receipt.model_version,
                "audit_index": receipt.audit_index,
            }
        )
    return rows


def _write(path: Path, blocks: Any, manifest: "Manifest") -> dict[str, str]:
    from core.wire import save_tensors, write_atomically
    from parties.data_owner.pictures import as_picture, png

    tensors, view = (
        path.with_name(f"{path.name}.safetensors"),
        path.with_name(f"{path.name}.png"),
    )
    save_tensors(tensors, {"encrypted_blocks": blocks})
    write_atomically(view, png(as_picture(blocks, *manifest.block)), mode=0o644)
    return {"blocks": str(tensors), "view": str(view)}


def _distinct(files: Sequence[Path]) -> list[str]:
    """A name for each picture's files; a number where two pictures have the same."""
    names: list[str] = []
    for path in files:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    return names

"""`keymixer audit receipt get | verify`: one record's proof, as a file that travels."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.console import EXIT_CODES, print_facts, print_json
from core.errors import StorageError
from orchestrator.cli.options import LATEST, As, AsJson, Run, read_public_key
from orchestrator.cli.session import ask, tell

if TYPE_CHECKING:
    from orchestrator.audit.receipts import ProvenRecord

app = typer.Typer(help="Prove single records, also offline.", no_args_is_help=True)


@app.command(epilog=EXIT_CODES)
def get(
    index: Annotated[int, typer.Argument(help="The record's index.", min=0)],
    run: Run = LATEST,
    *,
    out: Annotated[
        Path, typer.Option(help="The receipt's file; it must not be there yet.")
    ],
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Fetch the receipt of a record from a running federation.

    Example: keymixer audit receipt get 12 --out record-12.tlog-proof
    """
    from core.wire import write_atomically
    from orchestrator.audit.receipts import fetch_receipt
    from orchestrator.cli.exporting import require_new

    require_new(out)
    fetched = ask(run, as_, lambda operator: fetch_receipt(operator, index))
    write_atomically(out, fetched.receipt.to_bytes())
    key = fetched.public_key.hex()
    told = (
        f"Wrote {out}. To verify it anywhere: "
        f"keymixer audit receipt verify {out} --public-key {key}"
    )
    content = {**_content(fetched.proven), "file": str(out), "public_key": key}
    tell(content, told, as_json=json_)


@app.command(epilog=EXIT_CODES)
def verify(
    file: Annotated[
        Path, typer.Argument(help="The receipt.", exists=True, dir_okay=False)
    ],
    *,
    public_key: Annotated[
        str,
        typer.Option(help="The log's public key, in hex, from someone you trust."),
    ],
    origin: Annotated[
        str, typer.Option(help="The log's name; else the one that the receipt gives.")
    ] = "",
    json_: AsJson = False,
) -> None:
    """Verify a receipt offline, and say what its record says.

    Example: keymixer audit receipt verify record-12.tlog-proof --public-key HEX
    """
    from orchestrator.audit.receipts import read_receipt

    proven = read_receipt(_read(file), read_public_key(public_key), origin or None)
    if json_:
        print_json(_content(proven))
    else:
        print_facts(f"Record {proven.entry.index}: verified", _facts(proven))


def _read(file: Path) -> bytes:
    """Read no more of a file than shows that it is too long for a receipt."""
    from core.receipt import MAX_RECEIPT_BYTES

    try:
        with file.open("rb") as opened:
            return opened.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error


def _content(proven: "ProvenRecord") -> dict[str, Any]:
    signed = proven.checkpoint
    return {
        "verified": True,
        "origin": signed.origin,
        "size": signed.size,
        "root": signed.root.hex(),
        "record": json.loads(proven.body),
    }


def _facts(proven: "ProvenRecord") -> dict[str, Any]:
    """When, who and what, each fact whole, and the log that says so."""
    from orchestrator.cli.history import told

    signed = proven.checkpoint
    said = told(json.loads(proven.body))
    return {
        "time": f"{said['time']} UTC",
        "who": said["who"],
        "what": said["what"],
        **{f"- {name}": fact for name, fact in proven.entry.subject.items()},
        "log": signed.origin,
        "signed": f"{signed.size} records, root {signed.root.hex()}",
    }

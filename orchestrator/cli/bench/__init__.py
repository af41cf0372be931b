"""`keymixer bench`: measure on this machine what keymixer costs."""

import typer

from core.console import EXIT_CODES
from orchestrator.cli.bench.keys import keys
from orchestrator.cli.bench.learning import dial, federated, schemes, shields
from orchestrator.cli.bench.log import audit, growth
from orchestrator.cli.bench.pictures import encrypt, wire
from orchestrator.cli.bench.serving import fairness, owners, peers, serving

app = typer.Typer(help="Measure on this machine what keymixer costs.")


@app.callback()
def bench() -> None:
    """Measure on this machine what keymixer costs; nothing is left behind."""


for command in (
    *(keys, shields, schemes, dial, federated),
    *(audit, growth, wire, encrypt),
    *(owners, peers, serving, fairness),
):
    app.command(epilog=EXIT_CODES)(command)

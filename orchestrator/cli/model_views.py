"""`keymixer models show | compare | history`: one version, two of them, and when."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from core.console import EXIT_CODES, print_facts, print_json, print_rows, say
from orchestrator.cli.options import LATEST, As, AsJson, Run
from orchestrator.cli.session import connected
from orchestrator.cli.times import moment_ms, now_ms, when

if TYPE_CHECKING:
    from protos.registry_pb2 import ModelVersion

app = typer.Typer()

Name = Annotated[
    str, typer.Argument(help="A model; its version: NAME:3; an alias: NAME@champion.")
]
_MOVES: Final = {
    "index": "record",
    "time": "time (UTC)",
    "alias": "alias",
    "version": "version",
    "who": "who",
}
_COMPARED: Final = {"what": "what", "one": "one", "other": "other"}


@app.command(epilog=EXIT_CODES)
def show(
    name: Name,
    run: Run = LATEST,
    *,
    as_of: Annotated[
        str,
        typer.Option("--as-of", metavar="TIME", help="What it was then, or 2h ago."),
    ] = "",
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Show one model version: what it scores, its digests, and where it comes from.

    Where an alias pointed at an earlier moment is read from the audit log.

    Example: keymixer models show convmixer@champion --as-of 2026-11-01
    """
    from orchestrator.cli.model_names import ModelName, resolve

    asked = ModelName.parse(name)
    moment = moment_ms(as_of, now_ms()) if as_of else None
    with connected(run, as_) as session:
        found = _facts(resolve(session.operator, asked, moment))
    if json_:
        print_json(found)
    else:
        print_facts(f"{found['name']} version {found['version']}", flat(found))


@app.command(epilog=EXIT_CODES)
def compare(
    one: Name,
    other: Name,
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Say in what two model versions differ: metrics, architecture, data, digests.

    Example: keymixer models compare convmixer:1 convmixer@champion
    """
    from orchestrator.cli.model_names import ModelName, resolve

    with connected(run, as_) as session:
        two = [
            _facts(resolve(session.operator, ModelName.parse(name)))
            for name in (one, other)
        ]
    rows = differences(*two)
    headings = _COMPARED | {
        column: f"{facts['name']}:{facts['version']}"
        for column, facts in zip(("one", "other"), two, strict=True)
    }
    if rows or json_:
        print_rows("They differ in", rows, headings, as_json=json_)
    else:
        say("They are the same in all that the registry knows.")


@app.command(epilog=EXIT_CODES)
def history(
    model: Annotated[str, typer.Argument(help="The model.")],
    run: Run = LATEST,
    *,
    as_: As = "",
    json_: AsJson = False,
) -> None:
    """Tell which version each alias of a model named, and who moved it when.

    Example: keymixer models history convmixer
    """
    from orchestrator.cli.model_names import moves

    with connected(run, as_) as session:
        found = moves(session.operator, session.model(model))
    rows = [
        {
            "index": each.index,
            "time": when(each.at_ms),
            "time_ms": each.at_ms,
            "alias": each.alias,
            "version": each.version,
            "who": each.actor,
        }
        for each in found
    ]
    print_rows(f"Aliases of {model}", rows, _MOVES, as_json=json_)


def flat(facts: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested facts as a line each, by their path."""
    lines: dict[str, str] = {}
    for word, fact in facts.items():
        if isinstance(fact, dict):
            lines |= flat(fact, f"{before}{word}.")
        elif isinstance(fact, list):
            lines[before + word] = ", ".join(map(str, fact))
        else:
            lines[before + word] = str(fact)
    return lines


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, str]]:
    """What of two versions is not the same, a row for each fact."""
    left, right = flat(one), flat(other)
    return [
        {"what": word, "one": left.get(word, ""), "other": right.get(word, "")}
        for word in {**left, **right}
        if left.get(word) != right.get(word)
    ]


def _facts(version: "ModelVersion") -> dict[str, Any]:
    """All that the registry and the signed manifest say of it; a shield by its name."""
    manifest = json.loads(version.manifest)
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "provider": version.provider,
        "created": when(version.created_at_ms),
        "exposed": when(version.exposed_at_ms),
        "embedding": "public" if version.public_embedding else "secret",
        **{word: fact for word, fact in manifest.items() if word != "name"},
        "shield": _shield(manifest),
    }


def _shield(manifest: dict[str, Any]) -> str:
    from core.preprocessing import Preprocessing
    from core.shield import shield_from

    if "shield" not in manifest:
        return "none"
    preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    return shield_from(manifest["shield"], preprocessing).spec

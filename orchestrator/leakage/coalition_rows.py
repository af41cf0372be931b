"""The table of coalitions: as JSON, and as words for a page, terminal or document."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from core.leakage.coalitions import (
    HELD,
    Coalition,
    Eyes,
    Found,
    Opened,
    Result,
    table,
)
from orchestrator.leakage.joined import Joined

COLUMNS: Final[Mapping[str, str]] = {
    "who": "who joins",
    "pictures": "pictures",
    "leaked": "pictures, if one ciphertext leaks",
    "key": "the owner's key",
    "embedding": "plain embedding `W`",
    "other_keys": "other owners' keys",
}
# Of a matrix that has nothing to do with the true one the error is 1.4.
_UNRELATED: Final = 1.0
# A surface of the mean colour reaches .1 to .2.
_SOMETHING: Final = 0.3
# Between the attack's own choice of colours and an eye's, what is told.
_APART: Final = 0.0005


def attempts(joined: Joined) -> Iterator[Coalition]:
    """Attack as each of them, one row after the other."""
    material = joined.material
    eyes = Eyes(material.public, material.coordinates, material.generator(202))
    yield from table(
        joined.holdings, joined.victim, joined.leaked, eyes, joined.anybody
    )


def as_json(coalition: Coalition) -> dict[str, Any]:
    """One row of the report's `coalitions`."""
    leaked = coalition.leaked
    return {
        "members": [str(member) for member in coalition.members],
        "recorded": coalition.recorded,
        **_result(coalition.result),
        "with_leaked_ciphertext": _result(leaked) if leaked else None,
    }


def words(row: Mapping[str, Any]) -> dict[str, str]:
    """One row of the report as short words, by `COLUMNS`."""
    leaked = row["with_leaked_ciphertext"]
    return {
        "who": _who(row),
        "pictures": _pictures(row["pictures"]),
        "leaked": _pictures(leaked["pictures"]) if leaked else "as beside",
        **{each: _secret(row[each]) for each in ("key", "embedding", "other_keys")},
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as it stands in documents."""
    lines = [COLUMNS, dict.fromkeys(COLUMNS, "---"), *(words(row) for row in rows)]
    text = "\n".join("| " + " | ".join(line.values()) + " |" for line in lines)
    return text.replace("| --- ", "|---").replace("--- |", "---|") + "\n"


def _result(result: Result) -> dict[str, Any]:
    others = result.other_keys
    return {
        "pictures": _opened(result.pictures),
        "key": _found(result.key),
        "embedding": _found(result.embedding),
        "other_keys": _found(others) if others else None,
    }


def _opened(opened: Opened) -> dict[str, Any]:
    measured = asdict(opened.fidelity) if opened.fidelity else {}
    return {
        "recovered": opened.recovered,
        "by": opened.by,
        "ciphertexts": opened.ciphertexts,
        "images": measured.get("images", 0),
        **{
            name: round(measured[name], 4) if measured else None
            for name in ("psnr", "ssim", "ssim_low", "ssim_high")
        },
        "ssim_by_eye": round(opened.by_eye.ssim, 4) if opened.by_eye else None,
    }


def _found(found: Found) -> dict[str, Any]:
    error = None if found.error is None else float(f"{found.error:.3g}")
    return {**asdict(found), "error": error}


def _who(row: Mapping[str, Any]) -> str:
    if row["members"]:
        return ", ".join(row["members"])
    return "an outsider who recorded ciphertexts" if row["recorded"] else "an outsider"


def _pictures(cell: Mapping[str, Any]) -> str:
    if not cell["ciphertexts"]:
        return "nothing to open"
    best = cell["ssim"] if cell["ssim_by_eye"] is None else cell["ssim_by_eye"]
    seen = "in part" if best >= _SOMETHING else "no"
    looked = " by eye" if best - cell["ssim"] >= _APART else ""
    return f"{'yes' if cell['recovered'] else seen}: SSIM {best:.3f}{looked}"


def _secret(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "nobody is left"
    if cell["error"] is None:
        return "no"
    if cell["recovered"]:
        return "has it" if cell["by"] == HELD else f"yes: off by {cell['error']:.0e}"
    if cell["error"] >= _UNRELATED:
        return f"no: off by {cell['error']:.0%}"
    return f"near: off by {cell['error']:.0%}"

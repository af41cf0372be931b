"""Run the attacks one after the other and write `leakage.json` and `leakage.html`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.leakage import comparison, default_set, learned_set
from core.leakage.bounds import left_out
from core.leakage.coalitions import Coalition, Member
from core.leakage.learned_set import LeftOut
from core.leakage.material import Finding, Material, Trace
from core.leakage.moments import effective_rank
from core.leakage.schemes.random_orthogonal import NAME
from core.wire import write_atomically
from orchestrator.leakage.coalition_rows import as_json, attempts
from orchestrator.leakage.joined import Joined
from orchestrator.leakage.page import render, to_json
from orchestrator.leakage.shield import attack_shield

OnAttack = Callable[[str], None]

ATTACKS = {**default_set.ATTACKS, **comparison.ATTACKS, **learned_set.ATTACKS}
# The coalitions, the outsider, and one who recorded what went over the wire.
ROWS = 2 ** len(Member) + 1


def measure(
    material: Material, title: str, on_attack: OnAttack
) -> tuple[dict[str, Any], list[Finding]]:
    """Return the report's JSON content, and the findings with their pictures."""
    findings: list[Finding] = []
    traces: list[Trace] = []
    missing: list[LeftOut] = []
    begun = time.monotonic()
    skipped = left_out(material)
    missing.extend(LeftOut(name, why) for name, why in skipped.items())
    for name in ATTACKS:
        for found in _tried(name, material) if name not in skipped else ():
            if isinstance(found, Finding):
                findings.append(found)
            elif isinstance(found, Trace):
                traces.append(found)
            else:
                missing.append(found)
        on_attack(name)
    blocks = material.coordinates.blocks(material.public)
    height, width = material.own.shape[2:]
    report = {
        "data": title,
        "lower_bound": LOWER_BOUND,
        "images": len(material.own),
        "public_images": len(material.public),
        "height": height,
        "width": width,
        "patch_size": material.coordinates.patch_size,
        "dimension": material.coordinates.dimension,
        "effective_rank": effective_rank(blocks),
        "seed": material.seed,
        "attacks": [_row(each, material) for each in findings],
        "traces": [asdict(each) for each in traces],
        "left_out": [asdict(each) for each in missing],
        # Not measured: null, not an empty table. Coalitions need a federation.
        "federation": None,
        "coalitions": None,
        "shield": None,
        "seconds": round(time.monotonic() - begun, 1),
    }
    return report, findings


def see_through(material: Material, report: dict[str, Any]) -> list[Finding]:
    """Attack the shield, if any, with its key; fill the report's `shield`."""
    begun = time.monotonic()
    facts, findings = attack_shield(material)
    rows = [_row(each, material) for each in findings]
    report["shield"] = {**facts, "attacks": rows}
    report["seconds"] = round(report["seconds"] + time.monotonic() - begun, 1)
    return findings


def _tried(name: str, material: Material) -> Iterator[Finding | Trace | LeftOut]:
    """What an attack finds, or why it is not run."""
    if name in learned_set.ATTACKS:
        missing = learned_set.left_out(name, material)
        if missing is not None:
            yield missing
            return
    yield from ATTACKS[name](material)


def join(joined: Joined, report: dict[str, Any], on_row: OnAttack) -> list[Coalition]:
    """Attack as each coalition, fill the report's `coalitions`, and return them."""
    begun = time.monotonic()
    found = []
    for row in attempts(joined):
        found.append(row)
        on_row(", ".join(row.members))
    report["federation"] = dict(joined.facts)
    report["coalitions"] = [as_json(row) for row in found]
    report["seconds"] = round(report["seconds"] + time.monotonic() - begun, 1)
    return found


LOWER_BOUND = (
    "These figures are a lower bound on an attacker: a stronger attack is likely, and "
    "a picture that is not recovered here is not shown to be safe."
)


def write(
    folder: Path,
    report: dict[str, Any],
    findings: list[Finding],
    joined: Sequence[Coalition] = (),
    behind: Sequence[Finding] = (),
) -> Path:
    """Write both files and return the page's path; `behind` are the shield's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "leakage.json", to_json(report), mode=0o600)
    page = folder / "leakage.html"
    # It shows the owner's pictures: for the owner alone.
    text = render(report, findings, joined, behind)
    write_atomically(page, text.encode(), mode=0o600)
    return page


def _row(found: Finding, material: Material) -> dict[str, Any]:
    measured = {k: round(v, 4) for k, v in asdict(found.fidelity).items()}
    return {
        "name": found.name,
        "scheme": _scheme(found, material),
        "setting": found.setting,
        **measured,
        "assumes": found.assumes,
    }


def _scheme(found: Finding, material: Material) -> str:
    """Ours is under the shield."""
    if material.shield is None or found.scheme != NAME:
        return found.scheme
    return f"{NAME}, {material.shield.spec}"

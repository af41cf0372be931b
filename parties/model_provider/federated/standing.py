"""Where a federated training stands: the last round, and which images each site has.

It is kept as `parties.model_provider.place` keeps it, round by round, with the split
manifest, `split.json`, beside it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from numpy import ndarray

from core.wire import write_atomically
from parties.model_provider.federated.strategy import Round, SiteRound, Standing
from parties.model_provider.place import Place, require_same

_SPLIT: Final = "split.json"
_STATE: Final = "state:"


def read_split(place: Place) -> Mapping[str, Any] | None:
    """Read the split manifest of the rounds so far; None: there is none yet."""
    return place.document(_SPLIT)


def keep_split(place: Place, split: bytes) -> None:
    """Write down which images each site has."""
    write_atomically(place.folder / _SPLIT, split)


def require_site(split: Mapping[str, Any], site: Mapping[str, Any]) -> None:
    """Compare a site with what it was in the rounds so far.

    Raises:
        TrainingChangedError: its images are no longer the same.
    """
    known = {each["site"]: each for each in split["sites"]}
    name = str(site["site"])
    require_same(f"site {name}", known.get(name, {}), site)


def keep_round(place: Place, standing: Standing, rounds: tuple[Round, ...]) -> None:
    """Keep a finished round; the one before stays until this one is on disk."""
    state = {f"{_STATE}{n}": array for n, array in standing.state.items()}
    told = {"rounds": [asdict(each) for each in rounds]}
    place.keep(f"round-{standing.round:04}", {**state, **standing.memory}, told)


def last_round(place: Place) -> tuple[Standing, tuple[Round, ...]] | None:
    """Read the last finished round; None: there is none yet.

    Raises:
        CorruptFileError: the file is not the one that was kept.
    """
    kept = place.kept()
    if kept is None:
        return None
    tensors, told = kept
    rounds = tuple(_round(each) for each in told["rounds"])
    number = rounds[-1].number if rounds else 0
    return _standing(number, tensors), rounds


def _round(told: Mapping[str, Any]) -> Round:
    sites = tuple(SiteRound(**each) for each in told["sites"])
    return Round(told["number"], sites, told["seconds"], told.get("cpu_seconds", 0.0))


def _standing(number: int, tensors: Mapping[str, ndarray]) -> Standing:
    state = {
        name.removeprefix(_STATE): array
        for name, array in tensors.items()
        if name.startswith(_STATE)
    }
    memory = {n: array for n, array in tensors.items() if not n.startswith(_STATE)}
    return Standing(number, state, memory)

"""Which model version a request asks: the champion, now and then the candidate."""

from dataclasses import dataclass

from parties.data_owner.inference import Use

CHAMPION = "champion"
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Uses:
    """What may be asked now; without a candidate there is nothing to choose."""

    champion: Use
    candidate: Use | None = None


class Choice:
    """Gives the candidate its share of the requests, evenly: of ten a tenth, one.

    Args:
        share: Of all requests, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        # Requests for which there was a choice. Shares that were added up would be off.
        self._requests = 0

    def of(self, uses: Uses) -> Use:
        """What the next request is made with."""
        if uses.candidate is None:
            return uses.champion
        before = int(self._requests * self._share)
        self._requests += 1
        is_due = int(self._requests * self._share) > before
        return uses.candidate if is_due else uses.champion


def comparable(one: Use, other: Use) -> bool:
    """Whether answers of both can be put together: same pictures in, same classes."""
    mine, its = one.manifest, other.manifest
    return (mine.classes, mine.preprocessing) == (its.classes, its.preprocessing)

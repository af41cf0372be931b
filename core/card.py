"""A release's leakage card: what quick attacks recovered of its provider's pictures.

Only the provider has plain pictures, so it measures them when it releases, and the card
travels in the signed manifest. The registry adds what has been seen since. Every figure
is a lower bound on an attacker: a stronger attack is likely.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from core.canonical import take_fields
from core.errors import CorruptFileError

# What is said wherever a figure of a card is shown.
LOWER_BOUND: Final = "a lower bound on an attacker"

_MOST_ATTACKS: Final = 32
_LONGEST: Final = 200
_MAX_PSNR_DB: Final = 100.0


@dataclass(frozen=True, slots=True)
class Figure:
    """What one attack recovered: means over `images`, PSNR in dB, SSIM of -1 to 1.

    Nine in ten of the pictures lie between `ssim_low` and `ssim_high`.
    """

    name: str
    setting: str
    images: int
    psnr: float
    ssim: float
    ssim_low: float
    ssim_high: float

    def __post_init__(self) -> None:
        for text in (self.name, self.setting):
            _require_words(text)
        if self.images < 1:
            raise CorruptFileError("leakage.attacks: expected at least 1 image")
        shares = (self.ssim, self.ssim_low, self.ssim_high)
        # A comparison with NaN is false.
        if not (
            0 <= self.psnr <= _MAX_PSNR_DB and all(-1 <= each <= 1 for each in shares)
        ):
            raise CorruptFileError("leakage.attacks: a figure is out of range")


@dataclass(frozen=True, slots=True)
class Card:
    """What was measured of a release before anybody used it.

    `images` are the pictures attacked, which the model was not trained on;
    `public_images` are those that the attacker had. `effective_rank` is how many
    principal components hold 99 % of the variance of the attacker's blocks: what counts
    is blocks seen against it, not against their dimension D.
    """

    scheme: str
    effective_rank: int
    images: int
    public_images: int
    attacks: tuple[Figure, ...]

    def __post_init__(self) -> None:
        _require_words(self.scheme)
        if min(self.effective_rank, self.images, self.public_images) < 1:
            raise CorruptFileError("leakage: expected counts of at least 1")
        if not 1 <= len(self.attacks) <= _MOST_ATTACKS:
            raise CorruptFileError(f"leakage: expected 1 to {_MOST_ATTACKS} attacks")

    @property
    def strongest(self) -> Figure:
        """The attack that recovered most, by SSIM."""
        return max(self.attacks, key=lambda each: each.ssim)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {**asdict(self), "attacks": [asdict(each) for each in self.attacks]}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], dimension: int) -> Self:
        """Read what `to_dict` wrote, of blocks of `dimension` numbers.

        Raises:
            CorruptFileError: for another form, or figures that cannot be.
        """
        taken = take_fields(dict(entries), _CARD)
        figures = tuple(_figure(each) for each in taken.pop("attacks"))
        card = cls(**taken, attacks=figures)
        if card.effective_rank > dimension:
            raise CorruptFileError(
                f"leakage.effective_rank: at most {dimension}, got "
                f"{card.effective_rank}"
            )
        return card


_CARD: Final[Mapping[str, type]] = {
    "scheme": str,
    "effective_rank": int,
    "images": int,
    "public_images": int,
    "attacks": list,
}


def _figure(entries: Any) -> Figure:
    return Figure(**take_fields(entries, Figure.__annotations__))


def _require_words(text: str) -> None:
    if not (0 < len(text) <= _LONGEST and text.isprintable()):
        raise CorruptFileError(f"leakage: expected 1 to {_LONGEST} printable letters")

"""The leakage card of an issued model: what was measured, and what was seen since.

It is put together from the release's signed manifest and the registry's counts, and is
held against the federation's rules (`policies.leakage`). Every figure is a lower bound
on an attacker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from core.card import Card
from core.manifest import Manifest
from orchestrator.federation import LeakageRule
from orchestrator.registry.sight import NOTHING, Seen

UNMEASURED: Final = "not measured"


@dataclass(frozen=True, slots=True)
class IssuedCard:
    """What is known of how little a release hides.

    `total` is the cumulative exposure of its embedding `W`, over all keys and owners;
    `under_key` is what was seen under the key version that it was issued for.
    """

    scheme: str
    dimension: int
    measured: Card | None
    public_embedding: bool
    total: Seen = NOTHING
    under_key: Seen = NOTHING

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        public_embedding: bool,
        total: Seen,
        under_key: Seen = NOTHING,
    ) -> Self:
        """Put a manifest and the counts together."""
        shield = "" if manifest.shield is None else f", {manifest.shield.spec}"
        card = manifest.leakage
        return cls(
            card.scheme if card else f"random orthogonal{shield}",
            manifest.architecture.dimension,
            card,
            public_embedding,
            total,
            under_key,
        )

    @property
    def effective_rank(self) -> int | None:
        """How many directions hold nearly all of a block; None: nobody measured it."""
        return self.measured.effective_rank if self.measured else None

    @property
    def ratio(self) -> float:
        """Blocks seen, of every key, for each of those directions.

        One that nobody measured is taken to be the least that there is.
        """
        return self.total.blocks / (self.effective_rank or 1)

    def broken(self, rules: Sequence[LeakageRule]) -> list[tuple[LeakageRule, str]]:
        """The rules that the card breaks, each with why, in the order of the file."""
        found = ((rule, self._why(rule)) for rule in rules)
        return [(rule, why) for rule, why in found if why]

    def _why(self, rule: LeakageRule) -> str:
        """Why a rule is broken; empty if it is not."""
        if rule.when == "missing_card":
            return "" if self.measured else "the release has no leakage card"
        if rule.when == "public_embedding":
            public = "its plain embedding is public"
            return public if self.public_embedding else ""
        got, what = self._figure(rule)
        above = rule.above or 0.0
        return f"{what}: {got:,.6g}, above {above:,.6g}" if got > above else ""

    def _figure(self, rule: LeakageRule) -> tuple[float, str]:
        if rule.when == "images":
            return self.total.images, "pictures seen under all keys of its embedding"
        if rule.when == "blocks":
            return self.total.blocks, "blocks seen under all keys of its embedding"
        if rule.when == "ratio":
            return self.ratio, "blocks seen for each direction of a block"
        # Without a card nobody knows: it is taken to be all.
        worst = self.measured.strongest.ssim if self.measured else 1.0
        return worst, "SSIM that an attack recovers"

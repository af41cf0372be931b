"""A network that learns to see again what a shield, or an unknown key, left.

The attack that the literature measures itself by: a network is trained on public
pictures and what becomes of them, and then shown an owner's (Dosovitskiy & Brox,
arXiv 1506.02753; on learnable encryption Ito, Kinoshita & Kiya, arXiv 2006.01342). Ours
reads all blocks at once, starts from the linear estimate, and is trained for what it is
measured by: one minus the SSIM, and the squared error. In several rounds it goes on
from its own estimate, brought to agree with what was seen: where signs are missing, the
estimate's are taken (as Gerchberg & Saxton do with phases, Optik 35, 1972).

Assumes: public pictures, and a way to make of them what the owner's client makes of its
own: the key and the shield; or, as the literature's weaker attacker, keys of the
attacker's own. Costs: some minutes of one core for 20,000 pictures of 32x32, each seen
six times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from core.errors import DataError, ShapeError
from core.leakage.fidelity import WINDOW, Pictures
from core.training.steps import channels_last, convert_kernels

# What the attacker sees of pictures from 0 to 1; anew, with fresh noise, at every call.
Seeing = Callable[
    [Float[Tensor, "n c h w"], Generator], Float[Tensor, "n r rows columns"]
]
# Of pictures that would be seen like this, ones that are near to some.
Agreeing = Callable[
    [Float[Tensor, "n r rows columns"], Float[Tensor, "n c h w"]],
    Float[Tensor, "n c h w"],
]
Seen = Float[np.ndarray, "n r rows columns"]
OnStep = Callable[[int, int], None]

_C1: Final = 0.01**2
_C2: Final = 0.03**2
_SQUARED_ERROR: Final = 5.0
_SLICE: Final = 250


@dataclass(frozen=True, slots=True)
class Training:
    """How an inversion network is trained: AdamW, one cycle of the learning rate."""

    epochs: int = 6
    batch: int = 64
    max_lr: float = 4e-3
    hidden: int = 128
    depth: int = 3
    fine: int = 16
    rounds: int = 1
    seed: int = 0


class InversionNetwork(nn.Module):
    """Mixes blocks on their own grid, then pixels; what it adds to a first estimate."""

    def __init__(
        self, outputs: int, patch_size: int, channels: int, training: Training
    ) -> None:
        super().__init__()
        t = training
        self.mixing = nn.Sequential(
            nn.Conv2d(outputs + channels * patch_size**2, t.hidden, 1),
            *(_Mixing(t.hidden, 5) for _ in range(t.depth)),
            nn.Conv2d(t.hidden, t.fine * patch_size**2, 1),
            nn.PixelShuffle(patch_size),
        )
        self.gathering = nn.PixelUnshuffle(patch_size)
        self.drawing = nn.Sequential(
            nn.Conv2d(t.fine + channels, t.fine, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(t.fine, t.fine, 3, padding=1),
            nn.GELU(),
            _silent(nn.Conv2d(t.fine, channels, 3, padding=1)),
        )

    def forward(
        self,
        seen: Float[Tensor, "n r rows columns"],
        estimate: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, "n c h w"]:
        mixed = self.mixing(torch.cat([seen, self.gathering(estimate)], dim=1))
        drawn: Tensor = self.drawing(torch.cat([mixed, estimate], dim=1))
        return estimate + drawn


class _Mixing(nn.Module):
    """A block of ConvMixer, with a way past all of it."""

    def __init__(self, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel_size, groups=hidden, padding="same"),
            nn.GELU(),
            nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, hidden, 1),
            nn.GELU(),
            nn.BatchNorm2d(hidden),
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = x + self.steps(x)
        return mixed


def _silent(last: nn.Conv2d) -> nn.Conv2d:
    """Let it add nothing yet: a network begins with the first estimate itself."""
    for weight in last.parameters():
        nn.init.zeros_(weight)
    return last


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """A trained network, and the affine estimate that it starts from."""

    network: InversionNetwork
    matrix: Float[Tensor, "numbers pixels"]
    offset: Float[Tensor, " pixels"]
    scale: float
    rounds: int
    agreeing: Agreeing

    @torch.inference_mode()
    def __call__(self, seen: Seen) -> Pictures:
        """Recover pictures [n, c, h, w], float32 from 0 to 1."""
        parts = [
            _recovered(self, torch.from_numpy(seen[at : at + _SLICE]).float())[-1]
            for at in range(0, len(seen), _SLICE)
        ]
        return torch.cat(parts).clamp(0, 1).numpy()


def learn(
    pictures: Pictures,
    seeing: Seeing,
    first: tuple[np.ndarray, np.ndarray],
    training: Training,
    on_step: OnStep = lambda *_: None,
    *,
    agreeing: Agreeing = lambda _seen, pictures: pictures,
) -> Inversion:
    """Train a network on public pictures [n, c, h, w] from 0 to 1.

    Args:
        pictures: Public ones.
        seeing: What the attacker sees of some of them.
        first: Matrix and offset of the estimate it starts from, `LinearEstimate`'s.
        training: How.
        on_step: Is told of each step, and how many there are.
        agreeing: Corrects an estimate before each round, by what was seen.

    Raises:
        DataError: fewer pictures than a batch.
        ShapeError: the blocks do not tile the pictures.
    """
    if len(pictures) < training.batch:
        raise DataError(f"expected {training.batch} pictures, got {len(pictures)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        generator = Generator().manual_seed(training.seed)
        inversion = _untrained(
            pictures, seeing, first, training, generator, agreeing=agreeing
        )
    steps = training.epochs * (len(pictures) // training.batch)
    optimiser = AdamW(inversion.network.parameters(), training.max_lr)
    schedule = OneCycleLR(optimiser, training.max_lr, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(pictures), (training.batch,), generator=generator)
        batch = _mirrored(torch.from_numpy(pictures[chosen.numpy()]).float(), generator)
        rounds = _recovered(inversion, seeing(batch, generator))
        loss = torch.stack([_loss(batch, each) for each in rounds]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        on_step(step + 1, steps)
    inversion.network.eval()
    return inversion


def ssim(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Tensor:
    """The mean SSIM, `core.leakage.fidelity`'s, with a gradient."""
    mean_a, mean_b = _means(a), _means(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_a = unbiased * (_means(a * a) - mean_a**2)
    variance_b = unbiased * (_means(b * b) - mean_b**2)
    covariance = unbiased * (_means(a * b) - mean_a * mean_b)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).mean()


def _untrained(
    pictures: Pictures,
    seeing: Seeing,
    first: tuple[np.ndarray, np.ndarray],
    training: Training,
    generator: Generator,
    *,
    agreeing: Agreeing,
) -> Inversion:
    _, channels, height, width = pictures.shape
    some = seeing(torch.from_numpy(pictures[:_SLICE]).float(), generator)
    outputs, rows, columns = some.shape[1:]
    side = height // rows
    if (height, width) != (side * rows, side * columns):
        raise ShapeError(f"{rows}x{columns} blocks do not tile {height}x{width} pixels")
    network = InversionNetwork(outputs, side, channels, training)
    convert_kernels(network)
    matrix, offset = (torch.from_numpy(each).float() for each in first)
    scale = float(some.std())
    return Inversion(network, matrix, offset, scale, training.rounds, agreeing)


def _recovered(inversion: Inversion, seen: Tensor) -> list[Tensor]:
    """What each round recovers; the first goes on from the affine estimate."""
    side = inversion.network.gathering.downscale_factor
    estimate = seen.flatten(1) @ inversion.matrix + inversion.offset
    height, width = (side * size for size in seen.shape[2:])
    pictures = estimate.reshape(len(seen), -1, height, width)
    scaled = channels_last(seen / inversion.scale)
    recovered: list[Tensor] = []
    for _ in range(inversion.rounds):
        # No gradient through it: a sign has none, and each round learns its own step.
        agreed = inversion.agreeing(seen, pictures.detach().clamp(0, 1))
        pictures = inversion.network(scaled, channels_last(agreed))
        recovered.append(pictures)
    return recovered


def _loss(pictures: Tensor, recovered: Tensor) -> Tensor:
    error = (pictures - recovered).square().mean()
    return 1 - ssim(pictures, recovered) + _SQUARED_ERROR * error


def _mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    flipped = torch.rand(len(pictures), generator=generator) < 0.5  # noqa: PLR2004
    return torch.where(flipped[:, None, None, None], pictures.flip(3), pictures)


def _means(pictures: Tensor) -> Tensor:
    return avg_pool2d(pictures, WINDOW, stride=1)

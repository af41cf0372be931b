"""No picture was sent, and `W` is unknown: the rest of the model gives the key away.

A server holds the issued embedding `U = W A^T`, the bias and all that follows. Of all
orthogonal `B` the one is sought under which the network, with `U B` for its embedding,
meets public pictures as it met those that it was trained on: at every BatchNorm means
and variances are the ones that it kept (Ioffe & Szegedy, arXiv 1502.03167), compared as
Gaussians by their divergence, and labels, where the pictures have any, come out right.
Under `B = A` both hold. Such statistics have given pictures for a known network (Yin et
al., arXiv 1912.08795); here pictures are known, and a layer is not.

Several starts, drawn from all orthogonal matrices, of either determinant. Each is
turned by the exponential of a skew matrix (Lezcano-Casado & Martinez-Rubio, arXiv
1901.08428) with Adam (Kingma & Ba, arXiv 1412.6980): at first until single blocks are
right at the first BatchNorm, which costs little, and then by whole pictures; the more
promising go on. The loss on public pictures that no step saw chooses.

Assumes: the issued embedding and the backbone, which a server has, and public pictures
of the kind that the model was trained on; labels help. No key, no ciphertext, no W.
Costs: a few hundred steps of training a start: for a ConvMixer of width 64 and depth 2
on 32x32 pixels some tens of seconds of one core.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from core.convmixer import embed_blocks, put_together
from core.errors import DataError, ShapeError
from core.leakage.moments import Blocks, require_blocks
from core.leakage.schemes.random_orthogonal import haar
from core.leakage.served import Served
from core.training.steps import convert_kernels

Matrix = Float[np.ndarray, "d d"]
Turn = Float[Tensor, "d d"]
OnStart = Callable[[float], None]

# In the end it turns less: at the first rate it would leave where it is.
_SLOWER: Final = 0.3
# Below it a channel that never varied would count for everything.
_TINY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Search:
    """How many starts, how many of them go on, and for how many steps of what.

    Attributes:
        starts: Each is turned `begun` steps on single blocks, then `tried` on pictures.
        kept: Those of least loss, which are turned `steps` more.
        begun: Steps at the first BatchNorm alone.
        tried: Steps by whole pictures, of each start.
        steps: Of those that are kept.
        blocks: In a step of the first kind.
        batch: Pictures in a step of the second.
        judged: Public pictures that no step sees: they compare.
        max_lr: The highest rate of Adam's cycle; in the end a third of it.
        seed: Of the starts, and of what is seen when.
    """

    starts: int = 5
    kept: int = 1
    begun: int = 150
    tried: int = 120
    steps: int = 100
    blocks: int = 4096
    batch: int = 128
    judged: int = 512
    max_lr: float = 0.02
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class KeyGuess:
    """An estimate of `A` [D, D], orthogonal; `loss` compares: lower is better."""

    matrix: Matrix = field(repr=False)
    loss: float


def recover_key(
    issued: Float[np.ndarray, "hidden d"],
    served: Served,
    public: tuple[Blocks, np.ndarray | None],
    search: Search,
    on_start: OnStart = lambda _: None,
) -> list[KeyGuess]:
    """Return an estimate of the key from each start that was kept, the best first.

    Args:
        issued: `W A^T`.
        served: What follows it.
        public: Blocks of public pictures as the model reads them, without any key, and
            labels as the model's outputs are numbered, if there are any.
        search: How.
        on_start: Is told the loss of each start, and again of each that went on.

    Raises:
        DataError: fewer pictures than a batch, and some to judge by.
        ShapeError: the blocks, the embedding and the backbone are not of one model.
    """
    network = _Network(issued, served)
    blocks, labels = public
    require_blocks(blocks)
    if blocks.shape[-1] != issued.shape[1]:
        raise ShapeError(f"blocks of {blocks.shape[-1]}, embedding {issued.shape}")
    if len(blocks) < search.judged + search.batch:
        raise DataError(
            f"expected {search.judged + search.batch} public pictures, got "
            f"{len(blocks)}"
        )
    attacker = _Attacker(network, _Public.of(blocks, labels), search)
    tried = []
    for start in _starts(issued.shape[1], search):
        tried.append(attacker.tried(start))
        on_start(tried[-1].loss)
    tried.sort(key=lambda guess: guess.loss)
    ended = []
    for guess in tried[: search.kept]:
        ended.append(attacker.ended(guess))
        on_start(ended[-1].loss)
    return sorted(ended, key=lambda guess: guess.loss)


class _Attacker:
    """One search: what it descends on, and by which pictures it judges."""

    def __init__(self, network: "_Network", public: "_Public", search: Search) -> None:
        self._network = network
        self._judged = public.part(slice(search.judged))
        self._seen = public.part(slice(search.judged, None))
        self._search = search
        self._generator = Generator().manual_seed(search.seed)

    def tried(self, start: Matrix) -> KeyGuess:
        """Turn a start by single blocks, then a little by whole pictures."""
        search = self._search
        begun = _descended(_tensor(start), self._by_blocks, search.begun, search.max_lr)
        return self._guess(
            _descended(begun, self._by_pictures, search.tried, search.max_lr)
        )

    def ended(self, guess: KeyGuess) -> KeyGuess:
        """Turn it to the end."""
        search = self._search
        matrix, rate = _tensor(guess.matrix), _SLOWER * search.max_lr
        ended = self._guess(_descended(matrix, self._by_pictures, search.steps, rate))
        return min(guess, ended, key=lambda each: each.loss)

    def _by_blocks(self, turn: Turn) -> Tensor:
        blocks = self._seen.some_blocks(self._search.blocks, self._generator)
        return self._network.first_misfit(turn, blocks)

    def _by_pictures(self, turn: Turn) -> Tensor:
        some = self._seen.some(self._search.batch, self._generator)
        return self._network.loss(turn, some)

    @torch.no_grad()
    def _guess(self, turn: Turn) -> KeyGuess:
        loss = self._network.loss(turn, self._judged)
        left, _, right = np.linalg.svd(turn.double().numpy())
        return KeyGuess(left @ right, float(loss))


class _Network:
    """What a server runs, behind an embedding `U B` that is to be found."""

    def __init__(self, issued: Float[np.ndarray, "hidden d"], served: Served) -> None:
        self._rest = put_together(served.architecture, served.backbone)
        convert_kernels(self._rest)
        self._issued = _tensor(issued)
        bias = self._rest.embedding.bias
        if bias is None or bias.shape != self._issued.shape[:1]:
            raise ShapeError(f"the backbone is not of an embedding {issued.shape}")
        self._bias = bias
        self._kept = []
        self._met: list[Tensor] = []
        for module in self._rest.modules():
            if isinstance(module, nn.BatchNorm2d):
                self._kept.append(_kept(module))
                module.register_forward_pre_hook(self._meet)

    def first_misfit(self, turn: Turn, blocks: Float[Tensor, "n d"]) -> Tensor:
        """How far single blocks are from the first BatchNorm's statistics."""
        activation = self._rest.backbone[0]
        met = activation(self._tokens(turn, blocks))
        return _divergence(met.T, *self._kept[0])

    def loss(self, turn: Turn, public: "_Public") -> Tensor:
        """The same of all BatchNorms, and how wrong the labels are."""
        self._met.clear()
        logits = self._rest.forward_tokens(self._tokens(turn, public.blocks))
        misfits = [
            _divergence(met.transpose(0, 1).flatten(1), *kept)
            for met, kept in zip(self._met, self._kept, strict=True)
        ]
        loss = torch.stack(misfits).sum()
        if public.labels is None:
            return loss
        return loss + cross_entropy(logits, public.labels)

    def _tokens(self, turn: Turn, blocks: Tensor) -> Tensor:
        return embed_blocks(blocks, self._issued @ turn, self._bias)

    def _meet(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._met.append(inputs[0])


@dataclass(frozen=True, slots=True, eq=False)
class _Public:
    blocks: Float[Tensor, "n rows columns d"]
    labels: Tensor | None

    @classmethod
    def of(cls, blocks: Blocks, labels: np.ndarray | None) -> Self:
        known = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        return cls(_tensor(blocks), known)

    def part(self, chosen: slice | Tensor) -> "_Public":
        labels = None if self.labels is None else self.labels[chosen]
        return _Public(self.blocks[chosen], labels)

    def some(self, count: int, generator: Generator) -> "_Public":
        return self.part(torch.randint(len(self.blocks), (count,), generator=generator))

    def some_blocks(self, count: int, generator: Generator) -> Float[Tensor, "m d"]:
        every = self.blocks.flatten(0, 2)
        return every[torch.randint(len(every), (count,), generator=generator)]


def _starts(size: int, search: Search) -> Iterator[Matrix]:
    """Orthogonal matrices; every other one is a reflection."""
    rng = np.random.default_rng(search.seed)
    for number in range(search.starts):
        drawn = haar(size, rng)
        if (np.linalg.det(drawn) < 0) != bool(number % 2):
            drawn[:, 0] *= -1
        yield drawn


def _descended(
    start: Turn, loss_of: Callable[[Turn], Tensor], steps: int, max_lr: float
) -> Turn:
    """Turn a matrix, from where it is, so that the loss falls."""
    free = torch.zeros_like(start, requires_grad=True)
    optimiser = Adam([free], max_lr)
    schedule = OneCycleLR(optimiser, max_lr, total_steps=steps)
    for _ in range(steps):
        loss = loss_of(start @ torch.matrix_exp(free - free.T))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return (start @ torch.matrix_exp(free - free.T)).detach()


def _divergence(
    values: Float[Tensor, "channels many"],
    mean: Float[Tensor, " channels"],
    variance: Float[Tensor, " channels"],
) -> Tensor:
    """Of the Gaussian of these values from the kept one, a mean over channels."""
    ratio = (values.var(1, correction=0) + _TINY) / variance
    apart = (values.mean(1) - mean).square() / variance
    return (ratio + apart - 1 - ratio.log()).mean() / 2


def _kept(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ShapeError("a BatchNorm keeps no statistics")
    return mean, variance + _TINY


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

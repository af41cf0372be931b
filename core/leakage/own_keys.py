"""The literature's baseline: a network that learnt to see through keys of one's own.

Who has no key draws keys, transforms public pictures under them, trains a network to
undo that, and shows it what an owner sent under a key that nobody told. So the
encrypted pictures of this literature are attacked (on learnable encryption Ito,
Kinoshita & Kiya, arXiv 2006.01342), and what withstands is called robust. A network can
only learn what every key leaves alone, so besides the transformed numbers (`as_sent`)
it is shown that alone (`products`): the inner products of blocks that lie near one
another, for `(A x) . (A y) = x . y`. It starts from the mean colour, or, of products,
from a linear estimate of the norm map.

Of neither does it follow that the transform withstands: `second_order` opens the same
pictures, and learns nothing.

Assumes: public pictures; no key, no model, no plaintext. Costs: as `inversion`, some
minutes of one core.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import pad

from core.errors import ShapeError
from core.leakage.fidelity import Pictures
from core.leakage.inversion import OnStep, Training, learn
from core.leakage.linear_estimate import LinearEstimate
from core.leakage.moments import Blocks, require_blocks
from core.leakage.schemes.block_key import Coordinates
from core.leakage.sent_pixels import sent_blocks

Sent = Float[Tensor, "n rows columns d"]
# What a network is shown of transformed blocks.
View = Callable[[Sent], Float[Tensor, "n r rows columns"]]

# Products are taken with blocks up to so many away.
_REACH: Final = 2
# Among them the block's product with itself.
_ITSELF: Final = 2 * _REACH * (_REACH + 1)
# Public pictures behind the linear estimate, and the most weights it may have.
_FITTED: Final = 5_000
_MOST_WEIGHTS: Final = 2**26


def recover(
    seen: Blocks,
    public: Pictures,
    coordinates: Coordinates,
    view: View,
    training: Training,
    *,
    on_step: OnStep = lambda *_: None,
) -> Pictures:
    """Return what a network makes of blocks under keys that it was not trained with.

    Args:
        seen: The owner's blocks, under any keys.
        public: The attacker's pictures [n, c, h, w] from 0 to 1.
        coordinates: The way from pictures to the numbers that a key multiplies.
        view: `as_sent` or `products`.
        training: How.
        on_step: As `inversion.learn` has it.

    Raises:
        DataError: fewer pictures than a batch.
        ShapeError: the pictures are too large for an estimate from all their numbers.
    """
    require_blocks(seen)
    rng = np.random.default_rng(training.seed)

    def seeing(pictures: Tensor, generator: Generator) -> Tensor:
        blocks = _tensor(sent_blocks(coordinates, pictures.numpy(), rng))
        return view(under_own_keys(blocks, generator))

    first = _first(public, seeing, view, training)
    inversion = learn(public, seeing, first, training, on_step)
    return inversion(view(_tensor(seen)).numpy())


def as_sent(blocks: Sent) -> Float[Tensor, "n d rows columns"]:
    """The transformed numbers themselves."""
    return rearrange(blocks, "n rows columns d -> n d rows columns")


def products(blocks: Sent) -> Float[Tensor, "n r rows columns"]:
    """Inner products with the blocks around, and with the mean block: no key matters.

    Each is divided by D, and its root is taken, with its sign: a block's product with
    itself becomes the norm map's number.
    """
    rows, columns, dimension = blocks.shape[1:]
    wide = pad(blocks, (0, 0, *[_REACH] * 4))
    side = range(2 * _REACH + 1)
    around = [
        (blocks * wide[:, i : i + rows, j : j + columns]).sum(-1)
        for i in side
        for j in side
    ]
    around.append((blocks * blocks.mean((1, 2), keepdim=True)).sum(-1))
    each = torch.stack(around, dim=1) / dimension
    return each.sign() * each.abs().sqrt()


def under_own_keys(blocks: Sent, generator: Generator) -> Sent:
    """Multiply each picture's blocks by a fresh Haar-distributed key."""
    count, rows, columns, dimension = blocks.shape
    gaussian = torch.randn(count, dimension, dimension, generator=generator)
    keys, upper = torch.linalg.qr(gaussian)
    # Without the signs Q is not Haar (Mezzadri 2007).
    signs = torch.where(upper.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
    hidden = blocks.flatten(1, 2) @ (keys * signs[:, None]).mT
    return hidden.reshape(count, rows, columns, dimension)


def _first(
    public: Pictures, seeing: Callable[..., Tensor], view: View, training: Training
) -> tuple[np.ndarray, np.ndarray]:
    """From the norm map alone; or, where a key turns all numbers, the mean colour."""
    generator = Generator().manual_seed(training.seed)
    fitted = public[:_FITTED]
    seen = seeing(torch.from_numpy(fitted), generator).numpy()
    numbers, pixels = seen[0].size, fitted[0].size
    if numbers * pixels > _MOST_WEIGHTS:
        raise ShapeError(f"pictures of {fitted.shape[1:]} are too large")
    matrix = np.zeros((*seen.shape[1:], pixels), np.float32)
    if view is products:
        linear = LinearEstimate.of(seen[:, _ITSELF : _ITSELF + 1], fitted)
        matrix[_ITSELF] = linear.matrix.reshape(matrix.shape[1:])
        return matrix.reshape(numbers, pixels), linear.offset
    colour = public.mean(axis=(0, 2, 3))[:, None, None]
    offset = np.broadcast_to(colour, public.shape[1:]).reshape(-1)
    return matrix.reshape(numbers, pixels), offset.astype(np.float32)


def _tensor(blocks: Blocks) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(blocks, dtype=np.float32))

"""What a shield leaves, seen by an attacker that knows key and shield."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from core.errors import DataError, ShapeError
from core.leakage import fidelity
from core.leakage.fidelity import Pictures
from core.leakage.inversion import Seeing, Training, learn, ssim
from core.leakage.linear_estimate import LinearEstimate
from core.leakage.schemes.block_key import Pixels

DROPPED = 4
OWN = 40


@pytest.fixture(scope="module")
def shield(pictures: Pictures, coordinates: Pixels) -> np.ndarray:
    """What is orthogonal to the strongest directions of blocks of 12 numbers."""
    blocks = coordinates.blocks(pictures[OWN:]).reshape(-1, coordinates.dimension)
    _, directions = np.linalg.eigh(np.cov(blocks.T))
    left: np.ndarray = directions[:, :-DROPPED].T
    return left


@pytest.fixture(scope="module")
def seeing(shield: np.ndarray) -> Seeing:
    """Blocks of 2x2 pixels, as a convolution."""
    kernel = torch.from_numpy(shield).float().reshape(-1, 3, 2, 2)

    def left(pictures: Tensor, _generator: Generator) -> Tensor:
        return torch.conv2d(pictures, kernel, stride=2)

    return left


def seen_by(seeing: Seeing, pictures: Pictures) -> np.ndarray:
    return seeing(torch.from_numpy(pictures).float(), Generator()).numpy()


def test_the_estimate_is_ridge_regression(pictures: Pictures, seeing: Seeing) -> None:
    """Against the normal equations, for each of the ridges it chooses from."""
    public = pictures[OWN:]
    seen = seen_by(seeing, public)
    estimate = LinearEstimate.of(seen, public)
    held_out = len(public) // 10
    x = seen[held_out:].reshape(len(public) - held_out, -1).astype(np.float64)
    y = public[held_out:].reshape(len(x), -1)
    centred = x - x.mean(axis=0)
    gram = centred.T @ centred
    solutions = [
        np.linalg.solve(
            gram + share * np.trace(gram) / len(gram) * np.eye(len(gram)),
            centred.T @ (y - y.mean(axis=0)),
        )
        for share in (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
    ]

    differences = [np.abs(estimate.matrix - s).max() for s in solutions]

    assert min(differences) < 1e-3
    assert sorted(differences)[1] > 10 * min(differences)


def test_all_blocks_tell_more_than_one(
    pictures: Pictures, seeing: Seeing, shield: np.ndarray, coordinates: Pixels
) -> None:
    """A block's own best guess, the mean where it was cut, stays behind."""
    own, public = pictures[:OWN], pictures[OWN:]
    estimate = LinearEstimate.of(seen_by(seeing, public), public)
    mean = coordinates.blocks(public).mean(axis=(0, 1, 2))
    blocks = coordinates.blocks(own) - mean
    alone = coordinates.pictures(blocks @ shield.T @ shield + mean)

    everything = fidelity.fidelity(own, estimate(seen_by(seeing, own)))

    assert everything.psnr > fidelity.fidelity(own, alone).psnr + 0.3


def test_what_was_seen_of_other_pictures_tells_no_more_than_the_mean(
    pictures: Pictures, seeing: Seeing
) -> None:
    own, public = pictures[:OWN], pictures[OWN:]
    estimate = LinearEstimate.of(seen_by(seeing, public)[::-1], public)
    mean = np.broadcast_to(public.mean(axis=0), own.shape)

    recovered = fidelity.fidelity(own, estimate(seen_by(seeing, own)))

    assert recovered.psnr < fidelity.fidelity(own, mean).psnr + 0.3


def test_it_needs_one_of_each_and_enough(pictures: Pictures, seeing: Seeing) -> None:
    seen = seen_by(seeing, pictures[:20])
    with pytest.raises(ShapeError):
        LinearEstimate.of(seen, pictures[:21])
    with pytest.raises(DataError):
        LinearEstimate.of(seen[:19], pictures[:19])


def test_the_loss_is_what_is_measured(pictures: Pictures) -> None:
    a, b = pictures[:8], np.clip(pictures[:8] + 0.1 * pictures[8:16], 0, 1)
    measured = fidelity.ssim(a, b).mean()

    assert float(ssim(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(
        measured, abs=1e-9
    )


def test_the_network_goes_beyond_its_first_estimate(
    pictures: Pictures, seeing: Seeing
) -> None:
    """And a network that is shown other pictures than it is to recover does not."""
    own, public = pictures[:OWN], pictures[OWN:]
    linear = LinearEstimate.of(seen_by(seeing, public), public)
    hidden = seen_by(seeing, own)
    plan = Training(epochs=4, batch=32, hidden=16, depth=1, fine=8)

    def mistaken(batch: Tensor, generator: Generator) -> Tensor:
        return seeing(batch.roll(1, 0), generator)

    right, wrong = (
        fidelity.fidelity(
            own, learn(public, way, (linear.matrix, linear.offset), plan)(hidden)
        ).ssim
        for way in (seeing, mistaken)
    )

    before = fidelity.fidelity(own, linear(hidden)).ssim
    assert right > before + 0.005
    assert wrong < before + 0.002


def test_each_round_goes_on_from_the_one_before(
    pictures: Pictures, seeing: Seeing
) -> None:
    """Brought to agree with what was seen: the first from the affine estimate."""
    first = np.zeros((512, 768)), np.full(768, 0.25)
    plan = Training(epochs=1, batch=64, hidden=8, depth=1, fine=4, rounds=3)
    given: list[Tensor] = []

    def agreeing(seen: Tensor, estimate: Tensor) -> Tensor:
        assert seen.shape == (len(estimate), 8, 8, 8)
        given.append(estimate)
        return estimate + 0.25

    inversion = learn(pictures, seeing, first, plan, agreeing=agreeing)
    steps = len(given)
    found = inversion(seen_by(seeing, pictures[:2]))

    assert steps == 3 * (len(pictures) // 64)
    assert len(given) == steps + 3
    assert (given[-3] == 0.25).all()
    once = inversion.network(
        torch.from_numpy(seen_by(seeing, pictures[:2])) / inversion.scale,
        torch.full((2, 3, 16, 16), 0.5),
    )
    torch.testing.assert_close(given[-2], once.detach().clamp(0, 1))
    assert not np.allclose(found, given[-2].numpy())


def test_the_same_seed_learns_the_same(pictures: Pictures, seeing: Seeing) -> None:
    hidden = seen_by(seeing, pictures[:2])
    first = np.zeros((hidden[0].size, 768)), np.full(768, 0.5)
    plan = Training(epochs=1, hidden=8, depth=1, fine=4)
    steps: list[tuple[int, int]] = []

    one, other = (
        learn(pictures, seeing, first, plan, lambda *at: steps.append(at))(hidden)
        for _ in range(2)
    )

    assert (one == other).all()
    assert one.dtype == np.float32
    assert one.shape == (2, 3, 16, 16)
    assert steps[:8] == [(at, 8) for at in range(1, 9)]


def test_a_network_needs_a_batch_and_blocks_that_tile(
    pictures: Pictures, seeing: Seeing
) -> None:
    first = np.zeros((512, 768)), np.zeros(768)
    with pytest.raises(DataError, match="expected 64 pictures, got 5"):
        learn(pictures[:5], seeing, first, Training())

    def untiled(batch: Tensor, generator: Generator) -> Tensor:
        return seeing(batch, generator)[:, :, :5]

    with pytest.raises(ShapeError, match="do not tile"):
        learn(pictures, untiled, first, Training())

"""No picture sent: the key follows from what the rest of the model is used to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from core.architecture import Architecture
from core.convmixer import ConvMixer, initialise, take_apart
from core.errors import DataError, ShapeError
from core.leakage import model_only
from core.leakage.fidelity import Fidelity, Pictures, fidelity
from core.leakage.model_only import Search, _starts, recover_key
from core.leakage.schemes.block_key import Pixels
from core.leakage.schemes.random_orthogonal import draw
from core.leakage.served import Served

SIZES = Architecture(
    hidden=16,
    depth=1,
    kernel_size=3,
    patch_size=2,
    channels=1,
    height=16,
    width=16,
    classes=4,
)
OWN = 40
TURNED = 0.15
QUICK = Search(
    starts=1, kept=1, begun=60, tried=30, steps=20, batch=64, judged=64, blocks=512
)


class Provider:
    """A network whose BatchNorms have met some pictures; nobody trained it."""

    def __init__(self, pictures: Pictures, seed: int) -> None:
        model = initialise(SIZES, seed)
        images = torch.from_numpy(pictures).float()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            model.train()(images)
            self.labels = _best(model.eval(), images)
        embedding, backbone = take_apart(model)
        self.embedding = embedding.reshape(SIZES.hidden, -1)
        self.served = Served(SIZES, backbone)


def _best(model: ConvMixer, images: torch.Tensor) -> np.ndarray:
    labels: np.ndarray = model(images).argmax(1).numpy()
    return labels


@pytest.fixture(scope="module")
def grey(pictures: Pictures) -> Pictures:
    """Four numbers a block, to be quick."""
    mean: Pictures = pictures.mean(axis=1, keepdims=True)
    return mean


@pytest.fixture(scope="module")
def provider(grey: Pictures) -> Provider:
    return Provider(grey[OWN:], seed=0)


def attacked(
    provider: Provider,
    grey: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    *,
    served: Served | None = None,
    labelled: bool = True,
) -> Fidelity:
    """What the guess makes of pictures, from a start on this side of the key.

    Mirrored blocks are nearly as likely: from anywhere it takes many starts.
    """
    coordinates = Pixels(2, 1)
    key = draw(coordinates, np.random.default_rng(7))
    public = coordinates.blocks(grey[OWN:])
    labels = provider.labels if labelled else None
    issued = provider.embedding @ key.matrix.T
    drawn = np.random.default_rng(3).standard_normal((4, 4))
    near = key.matrix @ expm(TURNED * (drawn - drawn.T))
    monkeypatch.setattr(model_only, "_starts", lambda *_: iter([near]))
    guess = recover_key(issued, served or provider.served, (public, labels), QUICK)[0]
    hidden = key.encrypt(grey[:OWN])
    return fidelity(grey[:OWN], coordinates.pictures(hidden @ guess.matrix))


def test_the_model_alone_gives_a_key_that_opens_pictures(
    provider: Provider, grey: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attacked(provider, grey, monkeypatch).ssim > 0.8


def test_statistics_are_enough_without_labels(
    provider: Provider, grey: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attacked(provider, grey, monkeypatch, labelled=False).ssim > 0.8


def test_another_models_statistics_give_no_key(
    provider: Provider, grey: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The assumption taken away: what follows the embedding is not its own."""
    other = Provider(grey[OWN:], seed=1).served

    assert attacked(provider, grey, monkeypatch, served=other).ssim < 0.5


def test_guesses_are_orthogonal_and_the_best_is_first(
    provider: Provider, grey: Pictures
) -> None:
    public = Pixels(2, 1).blocks(grey[OWN:])
    told: list[float] = []
    plan = replace(QUICK, starts=2, kept=2, begun=2, tried=2, steps=2)

    found, again = (
        recover_key(
            provider.embedding, provider.served, (public, None), plan, told.append
        )
        for _ in range(2)
    )

    assert found[0].loss <= found[1].loss
    assert found[0].matrix @ found[0].matrix.T == pytest.approx(np.eye(4), abs=1e-6)
    assert len(told) == 2 * (2 + 2)
    assert np.array_equal(found[0].matrix, again[0].matrix)


def test_starts_are_of_either_determinant() -> None:
    determinants = [
        np.linalg.det(each) for each in _starts(4, replace(QUICK, starts=6))
    ]

    assert determinants == pytest.approx([1, -1, 1, -1, 1, -1])


def test_too_few_pictures_and_another_models_blocks_are_refused(
    provider: Provider, grey: Pictures
) -> None:
    blocks = Pixels(2, 1).blocks(grey[:20])

    with pytest.raises(DataError, match="128 public pictures, got 20"):
        recover_key(provider.embedding, provider.served, (blocks, None), QUICK)
    with pytest.raises(ShapeError, match="blocks of 4"):
        recover_key(provider.embedding[:, :3], provider.served, (blocks, None), QUICK)
    with pytest.raises(ShapeError, match="not of an embedding"):
        recover_key(provider.embedding[:8], provider.served, (blocks, None), QUICK)

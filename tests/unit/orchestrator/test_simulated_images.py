"""Photos in a simulation: fitted once for everybody, as the model's section says."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets import load
from orchestrator.federation import ImagesSection, ModelSection
from orchestrator.simulation.sites import deal_to_sites, load_for
from orchestrator.simulation.training import _options, _recipe_digest

FITTED = ModelSection(
    name="photos", provider="modelworks", images=ImagesSection(size="24", resize=30)
)
PLAIN = ModelSection(name="photos", provider="modelworks")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draws = np.random.default_rng(5)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = draws.integers(0, 256, (40 + number, 50, 3), np.uint8)
            path = tmp_path / "photos" / name / f"{number}.png"
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_owners_get_what_the_provider_tests_on(photos: Path) -> None:
    fitted = load_for(FITTED, str(photos), "test")

    assert fitted.digest == load(photos, "test", size=(24, 24), resize=30).digest
    assert load_for(PLAIN, str(photos), "test").images.shape[1:3] == (32, 32)


def test_sites_get_fitted_pixels_that_are_not_fitted_again(
    photos: Path, tmp_path: Path
) -> None:
    """A second scaling would make other pixels than an owner's client makes."""
    two = {"federated": {"sites": ["north", "south"]}}
    model = ModelSection.model_validate({**FITTED.model_dump(), **two})
    assert model.federated is not None
    folders = {name: tmp_path / name for name in model.federated.sites}
    deal_to_sites(model, str(photos), model.federated, folders)
    seen = [
        load(folder / "images.npz", "train", size=(24, 24), resize=30)
        for folder in folders.values()
    ]

    pixels = {image.tobytes() for part in seen for image in part.images}
    whole = load(photos, "train", size=(24, 24), resize=30)
    assert pixels == {image.tobytes() for image in whole.images}


def test_the_provider_is_told_what_to_fit_them_to() -> None:
    told = _options(FITTED)

    assert told[told.index("--image-size") + 1] == "24"
    assert told[told.index("--resize") + 1] == "30"
    assert "--image-size" not in _options(PLAIN)


def test_a_model_in_another_form_is_trained_anew() -> None:
    """And one whose section says nothing of it keeps its place in the cache."""
    other = FITTED.model_copy(update={"images": ImagesSection(size="24")})

    digests = {_recipe_digest(model, "0" * 64) for model in (FITTED, PLAIN, other)}
    assert len(digests) == 3

"""What learns is run where it can be, and where it cannot the report says why."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from core.architecture import Architecture
from core.convmixer import initialise, take_apart
from core.errors import ShapeError
from core.leakage import inversion, learned_set, model_only
from core.leakage.crowd import Crowd
from core.leakage.fidelity import Pictures
from core.leakage.learned_set import LEARNT, MODEL_ONLY, left_out
from core.leakage.material import Finding, Material
from core.leakage.schemes.block_key import Pixels
from core.leakage.served import Served

SIZES = Architecture(
    hidden=16, depth=1, kernel_size=3, patch_size=2, height=16, width=16, classes=2
)
FEW = {"starts": 1, "kept": 1, "begun": 2, "tried": 2, "steps": 2, "judged": 64}
SMALL = {"batch": 32, "hidden": 8, "depth": 1, "fine": 4}


@pytest.fixture(scope="module")
def material(pictures: Pictures) -> Material:
    """Thorough, with a model, labels and pictures enough."""
    embedding, backbone = take_apart(initialise(SIZES, 0))
    crowd = np.concatenate([pictures[40:]] * 3).astype(np.float32)
    return Material(
        pictures[:12],
        pictures[40:80],
        Pixels(2, 3),
        embedding.reshape(16, 12),
        thorough=True,
        served=Served(SIZES, backbone),
        crowd=Crowd(crowd, np.zeros(len(crowd), np.int64)),
    )


def why(name: str, material: Material) -> str:
    found = left_out(name, material)
    return "" if found is None else found.why


def test_with_all_that_is_needed_nothing_is_left_out(material: Material) -> None:
    assert [left_out(name, material) for name in learned_set.ATTACKS] == [None, None]


def test_what_is_missing_is_named(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(material, thorough=False, crowd=None)
    few = replace(material, crowd=Crowd(material.public))
    monkeypatch.setattr(learned_set, "_LARGEST", 700)

    assert why(MODEL_ONLY, quick) == "it takes minutes: --thorough runs it"
    assert "no model" in why(MODEL_ONLY, replace(material, served=None))
    assert "1,000 public pictures, there are 40" in why(LEARNT, few)
    assert "larger than 700 numbers" in why(LEARNT, material)
    monkeypatch.setattr(learned_set, "find_spec", lambda _: None)
    assert why(MODEL_ONLY, material) == "torch is not installed"


@pytest.mark.parametrize("labelled", [True, False])
def test_the_model_alone_says_what_it_had(
    material: Material, monkeypatch: pytest.MonkeyPatch, *, labelled: bool
) -> None:
    monkeypatch.setattr(model_only, "Search", partial(model_only.Search, **FEW))
    assert material.crowd is not None
    crowd = material.crowd if labelled else Crowd(material.crowd.pictures)

    (found,) = learned_set.model_alone(replace(material, crowd=crowd))

    assert ("without labels" in found.assumes) != labelled
    assert found.setting == "no picture seen; 1,440 public pictures"
    assert found.fidelity.images == 12


def test_the_network_has_a_row_for_each_view(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "Training", partial(inversion.Training, **SMALL))
    monkeypatch.setattr(learned_set, "_EPOCHS", 1)

    found = list(learned_set.learnt(material))

    assert [type(each) for each in found] == [Finding, Finding]
    assert [each.setting.partition(",")[0] for each in found] == [
        "what was sent",
        "inner products of neighbouring blocks",
    ]


def test_labels_are_one_for_each_picture(pictures: Pictures) -> None:
    with pytest.raises(ShapeError, match="5 pictures"):
        Crowd(pictures[:5], np.zeros(4, np.int64))

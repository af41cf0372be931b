"""Every number of an architecture is checked before a weight is allocated."""

import json

import pytest
from hypothesis import given

from core.architecture import MAX_SIZE, Architecture
from core.errors import ConfigurationError
from tests.strategies import architectures

NAMES = list(Architecture().to_dict())


@given(architectures())
def test_an_architecture_survives_json(architecture: Architecture) -> None:
    entries = json.loads(json.dumps(architecture.to_dict()))

    assert Architecture.from_dict(entries) == architecture


def test_the_derived_sizes_are_those_of_the_blocks() -> None:
    architecture = Architecture(patch_size=4, channels=3, height=32, width=64)

    assert (architecture.dimension, architecture.rows, architecture.columns) == (
        48,
        8,
        16,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, MAX_SIZE + 1, 1.0, "1", True, None, [4]])
def test_a_number_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    entries: dict[str, object] = {**Architecture().to_dict(), name: value}

    with pytest.raises(ConfigurationError, match=name):
        Architecture.from_dict(entries)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_field_is_named(name: str) -> None:
    entries = Architecture().to_dict()
    del entries[name]

    with pytest.raises(ConfigurationError, match=name):
        Architecture.from_dict(entries)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ConfigurationError, match="dropout"):
        Architecture.from_dict({**Architecture().to_dict(), "dropout": 1})


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 30)])
def test_images_that_do_not_split_into_patches_are_refused(
    height: int, width: int
) -> None:
    with pytest.raises(ConfigurationError, match="patch_size"):
        Architecture(height=height, width=width)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 257}, "depth: expected at most 256, got 257"),
        (
            {"patch_size": 32, "channels": 2},
            r"channels x patch_size\^2: expected at most 1024, got 2048",
        ),
        (
            {"patch_size": 16, "channels": 4, "hidden": 16385},
            r"hidden x channels x patch_size\^2: expected at most 16777216, got",
        ),
    ],
)
def test_sizes_that_exhaust_a_machine_together_are_refused(
    sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Architecture.from_dict({**Architecture().to_dict(), **sizes})


@pytest.mark.parametrize("patch_size", [14, 16])
def test_the_patches_of_large_images_are_allowed(patch_size: int) -> None:
    architecture = Architecture(
        hidden=1536, depth=20, patch_size=patch_size, height=224, width=224
    )

    assert architecture.dimension in {588, 768}


def test_gelu_is_said_by_saying_nothing() -> None:
    """A manifest that was signed before there was a choice is written as it was."""
    entries = Architecture().to_dict()

    assert "activation" not in entries
    assert Architecture.from_dict(entries).activation == "gelu"
    with pytest.raises(ConfigurationError, match="leaving it out"):
        Architecture.from_dict({**entries, "activation": "gelu"})


def test_relu_survives_json() -> None:
    architecture = Architecture(activation="relu")
    entries = json.loads(json.dumps(architecture.to_dict()))

    assert Architecture.from_dict(entries) == architecture


@pytest.mark.parametrize("value", ["tanh", "", None, 1, ["relu"], "ReLU"])
def test_an_activation_that_no_engine_knows_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="gelu or relu"):
        Architecture.from_dict({**Architecture().to_dict(), "activation": value})

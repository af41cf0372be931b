"""A manifest has one form, and what disagrees with itself is refused."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.architecture import Architecture
from core.canonical import canonical
from core.errors import CorruptFileError, InvalidInput, TooLargeError
from core.manifest import MAX_BYTES, Manifest
from core.preprocessing import Preprocessing
from core.shield import HighPass, Noise, Shield, shielded

MANIFEST = Manifest(
    name="cifar10",
    architecture=Architecture(classes=3),
    preprocessing=Preprocessing(
        height=32,
        width=32,
        channels=3,
        mean=(0.491, 0.482, 0.5),
        std=(0.247, 0.243, 1.0),
    ),
    classes=("airplane", "automobile", "bird"),
    metrics={"test_accuracy": 0.8186, "train_loss": 1.0},
    lineage={
        "code_version": "0.1.0",
        "data_digest": "cd" * 32,
        "seed": 7,
        "recipe": {"epochs": 6, "max_lr": 0.01},
        "parent": None,
    },
    embedding_digest="ab" * 32,
    backbone_digest="12" * 32,
)


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(MANIFEST.to_bytes())
    return loaded


def test_a_manifest_is_read_back() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST


def test_reading_and_writing_again_gives_the_signed_bytes() -> None:
    """Else a signature would verify for the provider and not for the reader."""
    data = MANIFEST.to_bytes()

    assert Manifest.from_bytes(data).to_bytes() == data


def test_a_manifest_is_plain_json_that_anyone_can_read() -> None:
    loaded = document()

    assert loaded["classes"] == ["airplane", "automobile", "bird"]
    assert loaded["architecture"]["patch_size"] == 4
    assert loaded["preprocessing"]["std"] == [0.247, 0.243, 1]


def test_a_manifest_with_spaces_is_refused() -> None:
    with pytest.raises(CorruptFileError):
        Manifest.from_bytes(json.dumps(document()).encode())


@pytest.mark.parametrize("path", ["", "architecture", "preprocessing"])
def test_an_unknown_field_is_refused(path: str) -> None:
    changed = document()
    (changed[path] if path else changed)["colour"] = "none"

    with pytest.raises(CorruptFileError, match="colour"):
        Manifest.from_bytes(canonical(changed))


@pytest.mark.parametrize("name", document())
def test_a_missing_field_is_refused(name: str) -> None:
    changed = document()
    del changed[name]

    with pytest.raises(CorruptFileError, match=name):
        Manifest.from_bytes(canonical(changed))


@pytest.mark.parametrize("value", [None, True, 1, [1], {"a": "b"}])
@pytest.mark.parametrize("name", [name for name in document() if name != "lineage"])
def test_a_field_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(CorruptFileError):
        Manifest.from_bytes(canonical({**document(), name: value}))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'"text"', b"\x80"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        Manifest.from_bytes(data)


def test_a_manifest_has_a_bound() -> None:
    room = MAX_BYTES - len(replace(MANIFEST, lineage={"note": ""}).to_bytes())
    longest = replace(MANIFEST, lineage={"note": "x" * room})
    longer = replace(MANIFEST, lineage={"note": "x" * (room + 1)})

    assert Manifest.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(TooLargeError, match="65536 bytes, got 65537"):
        Manifest.from_bytes(longer.to_bytes())


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "a/b", "a b", "a\n", "x" * 65, "\u00e9t\u00e9"]
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(CorruptFileError, match="name"):
        replace(MANIFEST, name=name)


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "xy" * 32, "ab" * 32 + "\n"])
@pytest.mark.parametrize("field", ["embedding_digest", "backbone_digest"])
def test_a_digest_is_64_hex_digits(field: str, digest: str) -> None:
    with pytest.raises(CorruptFileError, match="64 hex"):
        Manifest.from_bytes(canonical({**document(), field: digest}))


@pytest.mark.parametrize(
    "classes",
    [
        (),
        ("airplane", "automobile"),
        ("airplane", "automobile", "bird", "cat"),
        ("airplane", "automobile", "airplane"),
        ("airplane", "automobile", ""),
        ("airplane", "automobile", "  "),
        ("airplane", "automobile", "\x1b[31mred"),
        ("airplane", "automobile", 3),
    ],
)
def test_classes_are_unique_printable_and_as_many_as_outputs(classes: Any) -> None:
    with pytest.raises(CorruptFileError, match="classes"):
        Manifest.from_bytes(canonical({**document(), "classes": classes}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("height", 28), ("width", 28), ("channels", 1)],
)
def test_preprocessing_makes_what_the_architecture_reads(
    field: str, value: int
) -> None:
    changed = document()
    changed["preprocessing"][field] = value
    if field == "channels":
        changed["preprocessing"] |= {"mean": [0.5], "std": [0.5]}

    with pytest.raises(CorruptFileError, match=f"preprocessing.{field}"):
        Manifest.from_bytes(canonical(changed))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("architecture", "patch_size", 5),
        ("architecture", "hidden", 0),
        ("architecture", "depth", 1.5),
        ("architecture", "classes", True),
        ("preprocessing", "std", [0.2, 0.2, 0]),
        ("preprocessing", "mean", [0.5]),
        ("preprocessing", "mean", ["0.5", 0.5, 0.5]),
        ("metrics", "test_accuracy", "0.8"),
        ("metrics", "test_accuracy", True),
    ],
)
def test_a_fact_that_cannot_be_is_refused(section: str, field: str, value: Any) -> None:
    changed = document()
    changed[section][field] = value

    with pytest.raises(CorruptFileError, match=field):
        Manifest.from_bytes(canonical(changed))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_diverged_is_not_written(value: float) -> None:
    with pytest.raises(InvalidInput):
        replace(MANIFEST, metrics={"train_loss": value}).to_bytes()


def test_what_is_new_in_a_manifest_is_written_only_where_it_is_used() -> None:
    """So one that was signed earlier has the bytes that it had."""
    written = document()
    new = {"public_embedding", "activation", "resize", "shield", "leakage"}

    assert new.isdisjoint(written)
    assert new.isdisjoint(written["architecture"] | written["preprocessing"])


def test_a_public_embedding_survives_and_is_said_only_if_it_is_one() -> None:
    public = replace(MANIFEST, public_embedding=True)

    assert Manifest.from_bytes(public.to_bytes()) == public
    for value in (False, None, 1, "yes"):
        with pytest.raises(CorruptFileError, match="public_embedding"):
            Manifest.from_bytes(canonical({**document(), "public_embedding": value}))


SHIELDS: list[Shield] = [
    Noise(4, 0.1, MANIFEST.preprocessing.std),
    HighPass.of(np.eye(48, dtype=np.float32)[:9], 4),
]


def with_shield(shield: Shield) -> Manifest:
    architecture = shielded(MANIFEST.architecture, shield)
    return replace(MANIFEST, architecture=architecture, shield=shield)


@pytest.mark.parametrize("shield", SHIELDS)
def test_a_shield_survives_and_the_model_is_of_what_it_leaves(shield: Shield) -> None:
    manifest = with_shield(shield)
    data = manifest.to_bytes()

    assert Manifest.from_bytes(data) == manifest
    assert Manifest.from_bytes(data).to_bytes() == data
    assert manifest.block == MANIFEST.block == (4, 3)
    assert (manifest.architecture.channels, manifest.architecture.height) == (
        shield.outputs,
        8,
    )


@pytest.mark.parametrize("shield", SHIELDS)
@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("architecture", "channels", 3),
        ("architecture", "height", 32),
        ("architecture", "patch_size", 2),
        ("preprocessing", "height", 28),
        ("shield", "patch_size", 2),
        ("shield", "kind", "none"),
    ],
)
def test_a_shield_that_does_not_fit_its_model_is_refused(
    shield: Shield, section: str, field: str, value: Any
) -> None:
    changed = json.loads(with_shield(shield).to_bytes())
    changed[section][field] = value

    with pytest.raises(CorruptFileError):
        Manifest.from_bytes(canonical(changed))


@pytest.mark.parametrize("value", [None, {}, [], "none", {"kind": "none"}])
def test_no_shield_is_said_by_leaving_it_out(value: Any) -> None:
    with pytest.raises(CorruptFileError, match="shield"):
        Manifest.from_bytes(canonical({**document(), "shield": value}))


def test_noise_is_of_the_pictures_preprocessing() -> None:
    shield = Noise(4, 0.1, (0.2, 0.2, 0.2))

    with pytest.raises(CorruptFileError, match="another preprocessing"):
        with_shield(shield)

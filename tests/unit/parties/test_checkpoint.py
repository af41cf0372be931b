"""Of a file from elsewhere only weights are read, and nothing is run."""

import argparse
import io
import os
import pickle
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import KeymixerError, NotFound
from core.wire import file_digest
from parties.model_provider.checkpoint import read_checkpoint
from parties.model_provider.errors import CheckpointError, MoreThanWeightsError

WEIGHTS = OrderedDict(a=torch.ones(2), b=torch.zeros(3))
AVERAGED = OrderedDict(a=torch.full((2,), 0.5), b=torch.zeros(3))


def saved(folder: Path, content: Any, **more: Any) -> Path:
    path = folder / "model.pt"
    torch.save(content, path, **more)
    return path


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_read_from_both_of_torchs_formats(
    tmp_path: Path, suffix: str, zipped: bool
) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)

    assert read.tensors.keys() == {"a", "b"}
    assert (read.entry, read.prefix) == ("", "")
    assert read.digest == file_digest(path)


def test_weights_are_read_from_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)

    assert torch.equal(read_checkpoint(path).tensors["a"], WEIGHTS["a"])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_needs_more_is_refused_and_not_run(
    tmp_path: Path, zipped: bool
) -> None:
    trap = Trap(tmp_path / "sprung")
    content = {"state_dict": WEIGHTS, "args": trap}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)

    with pytest.raises(MoreThanWeightsError, match=r"posix\.system"):
        read_checkpoint(path)
    assert not trap.path.exists()
    os.system(f"touch {trap.path}")  # noqa: S605 - it would have been made like this
    assert trap.path.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pth"
    trap = Trap(tmp_path / "sprung")
    path.write_bytes(pickle.dumps(trap, protocol))

    with pytest.raises(MoreThanWeightsError):
        read_checkpoint(path)
    assert not trap.path.exists()


@pytest.mark.parametrize(
    "content", [argparse.Namespace(lr=1), torch.nn.Linear(2, 2)], ids=["args", "module"]
)
def test_what_is_harmless_but_no_weight_is_refused_by_its_name(
    tmp_path: Path, content: Any
) -> None:
    """Training arguments and whole modules are classes; torch would have to import."""
    path = saved(tmp_path, {"state_dict": WEIGHTS, "more": content})

    with pytest.raises(MoreThanWeightsError, match=type(content).__name__):
        read_checkpoint(path)


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_ema"])
def test_weights_are_found_among_other_things_and_it_is_said_where(
    tmp_path: Path, entry: str
) -> None:
    path = saved(tmp_path, {"epoch": 3, "step": torch.tensor(7), entry: WEIGHTS})
    read = read_checkpoint(path)

    assert read.entry == entry
    assert read.tensors.keys() == {"a", "b"}


def test_averaged_weights_come_first_and_others_if_they_are_named(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, {"state_dict": WEIGHTS, "state_dict_ema": AVERAGED})

    assert read_checkpoint(path).entry == "state_dict_ema"
    assert read_checkpoint(path).tensors["a"][0] == 0.5
    assert read_checkpoint(path, "state_dict").tensors["a"][0] == 1
    with pytest.raises(CheckpointError, match="no weights_v2 in it; it has state_dict"):
        read_checkpoint(path, "weights_v2")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_every_name_is_taken_away(
    tmp_path: Path, prefix: str
) -> None:
    path = saved(tmp_path, {f"{prefix}{name}": each for name, each in WEIGHTS.items()})
    read = read_checkpoint(path)

    assert read.tensors.keys() == {"a", "b"}
    assert read.prefix == prefix


def test_what_stands_before_some_names_only_is_left(tmp_path: Path) -> None:
    path = saved(tmp_path, {"module.a": torch.ones(1), "b": torch.ones(1)})

    assert read_checkpoint(path).tensors.keys() == {"module.a", "b"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3}, "epoch is no weight but a int"),
        ({}, "expected weights by name"),
        ([torch.ones(1)], "expected weights by name"),
        (torch.ones(1), "expected weights by name"),
        ({"model": {}}, "model: expected weights by name"),
        ({"a": torch.eye(2).to_sparse()}, "a is no weight"),
    ],
)
def test_what_holds_no_weights_is_refused(
    tmp_path: Path, content: Any, told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(saved(tmp_path, content))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("data", [b"", b"abc", b"PK\x03\x04 a zip", bytes(64)])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)

    # Zeros are a pickle too, as far as torch gets with them.
    with pytest.raises((CheckpointError, MoreThanWeightsError)):
        read_checkpoint(path)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save(WEIGHTS, file)
    path = tmp_path / "model.pt"
    path.write_bytes(file.getvalue()[:-200])

    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        read_checkpoint(tmp_path / "model.pt")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(CheckpointError, match=r"\.safetensors, \.pt, \.pth"):
        read_checkpoint(tmp_path / "model.onnx")


@pytest.mark.parametrize("form", ["safetensors", "zipped", "older"])
def test_a_file_with_changed_bytes_is_read_or_refused_and_never_more(
    tmp_path: Path, form: str
) -> None:
    """Whatever torch makes of it, only an error of ours comes out."""
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        wrapped = {"state_dict": WEIGHTS}
        torch.save(wrapped, path, _use_new_zipfile_serialization=form == "zipped")
    data, drawn = path.read_bytes(), np.random.default_rng(1)
    for _ in range(100):
        changed = bytearray(data)
        for place in drawn.integers(0, len(data), drawn.integers(1, 4)):
            changed[place] = drawn.integers(0, 256)
        path.write_bytes(changed)
        with suppress(KeymixerError):
            assert read_checkpoint(path).tensors

"""What goes out comes back, and what was tampered with does not come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal

from core.errors import CorruptFileError, DtypeError, KeymixerError, TruncatedError
from core.wire import dump_tensors, from_bytes, load_tensors, to_bytes

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tensors = arrays(np.float32, array_shapes(max_dims=4, max_side=5), elements=finite)


@given(tensors)
def test_a_tensor_survives_the_wire_bit_for_bit(tensor: np.ndarray) -> None:
    assert_array_equal(from_bytes(to_bytes(tensor), tensor.shape), tensor)


@given(tensors, st.integers(1, 8))
def test_a_cut_or_padded_tensor_is_refused(tensor: np.ndarray, count: int) -> None:
    data = to_bytes(tensor)

    with pytest.raises(TruncatedError):
        from_bytes(data[:-count], tensor.shape)
    with pytest.raises(TruncatedError):
        from_bytes(data + bytes(count), tensor.shape)


@given(st.dictionaries(st.text(max_size=8).filter("__metadata__".__ne__), tensors))
def test_named_tensors_survive_the_file(named: dict[str, np.ndarray]) -> None:
    loaded = load_tensors(dump_tensors(named))

    assert named.keys() == loaded.keys()
    for name, tensor in named.items():
        assert_array_equal(loaded[name], tensor)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_file_and_break_nothing(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        load_tensors(data)


@given(tensors, st.data())
def test_a_damaged_file_is_refused_or_reads_as_tensors(
    tensor: np.ndarray, data: st.DataObject
) -> None:
    """A flipped bit in a number is the digest's business; one in the header is ours."""
    whole = bytearray(dump_tensors({"weight": tensor}))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))

    try:
        loaded = load_tensors(bytes(whole))
    except KeymixerError:
        return
    assert all(isinstance(value, np.ndarray) for value in loaded.values())


def test_a_float16_file_is_refused() -> None:
    header = b'{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'
    with pytest.raises(DtypeError):
        load_tensors(len(header).to_bytes(8, "little") + header + bytes(2))

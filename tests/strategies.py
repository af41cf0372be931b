"""Hypothesis strategies shared by the property tests: keys, images, models."""

from typing import get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.architecture import Activation, Architecture
from core.keys import BlockKey, derive_key

seeds = st.binary(min_size=32, max_size=32)
patch_sizes = st.integers(1, 5)
channel_counts = st.integers(1, 4)


@st.composite
def keys(draw: st.DrawFn) -> BlockKey:
    """A key for blocks of any small shape."""
    return derive_key(
        draw(seeds),
        key_id="test",
        version=1,
        patch_size=draw(patch_sizes),
        channels=draw(channel_counts),
    )


@st.composite
def images_for(draw: st.DrawFn, key: BlockKey) -> np.ndarray:
    """Float64 images, in -8 to 8, that split into the key's blocks."""
    count, rows, columns = (draw(st.integers(1, 3)) for _ in range(3))
    height, width = rows * key.patch_size, columns * key.patch_size
    shape = (count, key.channels, height, width)
    return draw(arrays(np.float64, shape, elements=st.floats(-8, 8)))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """A small ConvMixer of any shape, even kernels and oblong images included."""
    patch_size = draw(patch_sizes)
    return Architecture(
        hidden=draw(st.integers(1, 9)),
        depth=draw(st.integers(1, 3)),
        kernel_size=draw(st.integers(1, 6)),
        patch_size=patch_size,
        channels=draw(channel_counts),
        height=patch_size * draw(st.integers(1, 4)),
        width=patch_size * draw(st.integers(1, 4)),
        classes=draw(st.integers(1, 12)),
        activation=draw(st.sampled_from(get_args(Activation))),
    )

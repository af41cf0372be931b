"""With no work at all: the norms of the blocks are a thumbnail of the picture.

An orthogonal matrix keeps lengths, so `|A x| = |x|`, and with pixels from 0 to 1 the
root mean square of a block is close to its brightness. With pixels that were centred it
is the distance from the mean: contrast, not light.

Assumes: one transformed picture; no key, no plaintext, no model. No hue.
Costs: one norm a block.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image

from core.leakage.moments import Blocks, require_blocks

Map = Float[np.ndarray, "n rows columns"]
Pictures = Float[np.ndarray, "n c h w"]


def norm_map(blocks: Blocks) -> Map:
    """The root mean square of each block's numbers."""
    require_blocks(blocks)
    return np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=-1))


def enlarged(maps: Map, height: int, width: int, channels: int) -> Pictures:
    """Maps as grey pictures, in bicubic interpolation, the same in every channel."""
    planes = [
        np.asarray(
            Image.fromarray(one.astype(np.float32)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for one in maps
    ]
    return np.repeat(np.stack(planes)[:, None], channels, axis=1)

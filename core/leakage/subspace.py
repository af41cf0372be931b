"""In how many axes ciphertexts are attacked: all of a small block's, few of a large's.

Pictures vary in few directions of a large block, and the work of `second_order` grows
with the square of the axes and more. A block of up to 64 numbers is attacked whole. Of
a larger one, as many of its strongest principal axes count as hold 99.99 % of the
variance of public blocks, and at most 64 of them: what lies in the others is lost, 40
dB below the pictures.

Assumes: what `second_order` assumes. Costs: the eigenvalues of a D x D matrix.
"""

from typing import Final

from core.leakage.moments import Blocks, effective_rank

WHOLE: Final = 64
SHARE: Final = 0.9999


def kept_axes(blocks: Blocks) -> int:
    """Return how many axes of public blocks [n, rows, columns, D] are worth it."""
    dimension = int(blocks.shape[-1])
    if dimension <= WHOLE:
        return dimension
    return min(WHOLE, max(2, effective_rank(blocks, SHARE)))

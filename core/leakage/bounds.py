"""Which attacks are left out, and why: they would take hours, or compare unlike things.

All of them are those on the conventional schemes. An exchange of two numbers of a block
costs D^3; a jigsaw costs the cube of its places, and D^2 for each.
"""

from typing import Final

from core.leakage.comparison import ATTACKS as SCHEMES
from core.leakage.material import Material

# For each attack the most numbers of a block, and the most blocks of a picture.
_MOST: Final = {
    "schemes, known plaintext": (256, 4_096),
    "scrambling": (192, 256),
    "schemes, ciphertext only": (64, 4_096),
    "jigsaw": (64, 256),
}


def left_out(material: Material) -> dict[str, str]:
    """Return the names of the attacks that are not run, each with the reason."""
    if material.shield is not None:
        why = "conventional schemes are compared without a shield"
        return dict.fromkeys(SCHEMES, why)
    side, dimension = material.coordinates.patch_size, material.coordinates.dimension
    places = material.own[0, 0].size // side**2
    return {
        name: f"{dimension} numbers a block and {places} blocks a picture; "
        f"at most {numbers} and {blocks}"
        for name, (numbers, blocks) in _MOST.items()
        if dimension > numbers or places > blocks
    }

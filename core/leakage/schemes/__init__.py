"""The transform, and the conventional schemes it is compared with.

All but one of them multiply every block by one secret orthogonal matrix, in coordinates
that anyone can compute: a random one for ours, a permutation with signs for the others.
So the attacks on one are attacks on all. `block_scrambling` is the one that is not.
"""

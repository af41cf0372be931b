"""Attacks on our own transform, one file each, and the schemes it is compared with.

What they recover is a lower bound on an attacker: a stronger one may exist.

Pictures are float arrays [n, c, h, w] with pixels from 0 to 1; blocks are
[n, rows, columns, D], cut as `core.blocks` does, or in the coordinates of a scheme.
"""

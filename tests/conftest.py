"""Every test is steady: one thread, fixed seeds, no deadlines."""

import contextlib

from hypothesis import settings

# A data owner's installation has no torch, and its tests run without it.
with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

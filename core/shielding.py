"""A shield as training applies it, to torch's images; see `core.shield`."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from core.shield import Shield


@dataclass(frozen=True, slots=True, eq=False)
class Shielding:
    """`P (x + n)` for every block of normalised images: a convolution; or magnitudes.

    The noise is torch's own: it is for training and for evaluating, where nobody is
    protected by it.
    """

    kernel: Float[Tensor, "r c p p"]
    deviations: Float[Tensor, "c 1 1"]
    unsigned: bool = False

    @classmethod
    def of(cls, shield: Shield) -> "Shielding":
        """Make the kernel, float32."""
        rows = torch.from_numpy(shield.projection()).float()
        order = "r (c p q) -> r c p q"
        kernel = rearrange(rows, order, c=shield.channels, p=shield.patch_size)
        deviations = torch.tensor(shield.deviations)[:, None, None]
        return cls(kernel, deviations, shield.unsigned)

    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: Generator
    ) -> Float[Tensor, "n r rows columns"]:
        """Shield images, with noise out of the generator if there is to be any."""
        if self.deviations.any():
            drawn = torch.randn(images.shape, generator=generator)
            images = images + drawn * self.deviations
        left = conv2d(images, self.kernel, stride=self.kernel.shape[-1])
        return left.abs() if self.unsigned else left

    def agreeing(
        self, left: Float[Tensor, "n r rows columns"], images: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """The nearest images to these of which `left` is left, without any noise.

        What was dropped stays as it is in them, and so do the signs of magnitudes.
        """
        side = self.kernel.shape[-1]
        now = conv2d(images, self.kernel, stride=side)
        wanted = left.copysign(now) if self.unsigned else left
        return images + conv_transpose2d(wanted - now, self.kernel, stride=side)

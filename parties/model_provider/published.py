"""The ConvMixers that others have published: shapes by name, and what pictures undergo.

A name is `convmixer_HIDDEN_DEPTH`, then, where they are not 9, 7 and GELU,
`_ksKERNEL`, `_pPATCH` and `_relu`: `convmixer_1024_20_ks9_p14`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from types import MappingProxyType
from typing import Any, Final

from core.architecture import Architecture
from core.errors import ConfigurationError
from core.preprocessing import Preprocessing

_NAME: Final = re.compile(
    r"convmixer_(?P<hidden>\d{1,5})_(?P<depth>\d{1,3})"
    r"(?:_ks(?P<kernel_size>\d{1,2}))?(?:_p(?P<patch_size>\d{1,2}))?"
    r"(?:_(?P<activation>relu|gelu))?"
)
_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"kernel_size": 9, "patch_size": 7, "activation": "gelu"}
)
# Published with a smaller kernel and with ReLU, which no weight would show.
_OTHERWISE: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = MappingProxyType(
    {("768", "32"): {"kernel_size": 7, "activation": "relu"}}
)
# timm scales the shorter side to the size divided by this.
_CROP: Final = 0.96


@dataclass(frozen=True, slots=True)
class Reference:
    """How a data set's pictures were fitted and normalised by who trained on them."""

    size: int
    crop: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self, size: int | None = None) -> Preprocessing:
        """The same at another size, if one is given."""
        side = size or self.size
        resize = None if self.crop is None else floor(side / self.crop)
        return Preprocessing(side, side, len(self.mean), self.mean, self.std, resize)


REFERENCES: Final[Mapping[str, Reference]] = MappingProxyType(
    {
        "imagenet": Reference(
            224, _CROP, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        "cifar10": Reference(
            32, None, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616)
        ),
    }
)


def preprocessing_named(
    name: str,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Preprocessing:
    """A reference's preprocessing, with what is given in place of its own.

    Raises:
        ConfigurationError: there is no such reference, or the numbers do not fit.
    """
    if name not in REFERENCES:
        known = ", ".join(REFERENCES)
        raise ConfigurationError(f"--preprocessing: expected {known}, got {name:.40}")
    found = REFERENCES[name]
    given = replace(found, mean=mean or found.mean, std=std or found.std)
    return given.preprocessing(size)


def architecture_named(
    name: str, preprocessing: Preprocessing, classes: int
) -> Architecture:
    """The shape that a name such as `convmixer_768_32` stands for.

    Raises:
        ConfigurationError: it is no such name, or its patches do not fit the pictures.
    """
    read = _NAME.fullmatch(name)
    if read is None:
        raise ConfigurationError(
            f"--arch: expected convmixer_HIDDEN_DEPTH[_ksKERNEL][_pPATCH][_relu], such "
            f"as convmixer_1024_20_ks9_p14, got {name!r:.60}"
        )
    said = {field: value for field, value in read.groupdict().items() if value}
    usual = _OTHERWISE.get((read["hidden"], read["depth"]), {})
    numbers = {**_DEFAULTS, **usual, **said}
    activation = numbers.pop("activation")
    return Architecture(
        **{field: int(value) for field, value in numbers.items()},
        channels=preprocessing.channels,
        height=preprocessing.height,
        width=preprocessing.width,
        classes=classes,
        activation=activation,
    )

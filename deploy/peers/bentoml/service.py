"""BentoML: adaptive batching over images, sent as one raw tensor each request."""

from typing import Annotated

import bentoml
import numpy as np
import plain
import torch
from bentoml.validators import DType, Shape

Images = Annotated[np.ndarray, DType("float32"), Shape((-1, 3, 32, 32))]

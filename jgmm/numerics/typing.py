"""Names for what functions accept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

# Anything that jnp.asarray takes: numbers, nested lists of them, arrays of NumPy and of JAX.
ArrayLike = Any
# Some of the features of rows, by their numbers or by a mask.
Features = Sequence[int] | Sequence[bool] | np.ndarray | Array

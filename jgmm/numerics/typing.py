"""Names for what functions accept."""

from typing import Any

# Anything that jnp.asarray takes: numbers, nested lists of them, arrays of NumPy and of JAX.
ArrayLike = Any

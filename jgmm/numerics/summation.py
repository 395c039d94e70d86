"""Compensated summation: sums that do not lose digits.

The log-likelihood of 50,000 images is of the order of 1e8 nats, where neighboring float32 numbers lie 8 apart,
while EM looks at changes of 50. A `CompensatedSum` carries the rounding error of a sum along in a second number,
which doubles the digits (Knuth, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.numerics.pytree import pytree


@pytree
class CompensatedSum:
    """The unevaluated sum high + low of two arrays."""

    high: Array
    low: Array

    @classmethod
    def of(cls, x: Float[Array, " n"]) -> "CompensatedSum":
        """The sum of a vector."""

        def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            total = cls(*a) + cls(*b)
            return total.high, total.low

        zero = jnp.zeros((), x.dtype)
        return cls(*jax.lax.reduce((x, jnp.zeros_like(x)), (zero, zero), add, (0,)))

    def __add__(self, other: "CompensatedSum") -> "CompensatedSum":
        high = self.high + other.high
        rest = high - self.high
        error = (self.high - (high - rest)) + (other.high - rest)
        return CompensatedSum(high, self.low + other.low + error)

    def __float__(self) -> float:
        return float(self.high) + float(self.low)

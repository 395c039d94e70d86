"""Compensated sums against exact ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.numerics.summation import CompensatedSum


def test_a_compensated_sum_keeps_the_digits_float32_loses(rng):
    x = (rng.normal(size=100_001) * 1e3 - 4000).astype(np.float32)
    total = jax.jit(CompensatedSum.of)(jnp.asarray(x))
    exact = math.fsum(x.astype(np.float64))
    assert abs(float(total) - exact) < 1e-9 * abs(exact)
    assert abs(float(total + total) - 2 * exact) < 1e-9 * abs(exact)

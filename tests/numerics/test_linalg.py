"""Matrix products by group, and factors, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.numerics.linalg import grouped_matvec, lower_factor

pytestmark = pytest.mark.usefixtures("x64")
D = 4


@pytest.mark.parametrize("n", [0, 1, 5, 64, 300])
def test_grouped_products_equal_gathered_ones(n, rng):
    matrices = rng.normal(size=(7, D, D))
    group = rng.choice([0, 3, 3, 6], size=n)
    x = rng.normal(size=(n, D))
    y = jax.jit(grouped_matvec)(jnp.asarray(matrices), jnp.asarray(group, jnp.int32), jnp.asarray(x))
    np.testing.assert_allclose(y, np.einsum("nde,ne->nd", matrices[group], x), rtol=1e-10)


def test_the_lower_factor_is_that_of_cholesky(rng):
    rows = rng.normal(size=(3, 4, 9))
    expected = np.linalg.cholesky(rows @ rows.swapaxes(1, 2))
    np.testing.assert_allclose(lower_factor(jnp.asarray(rows)), expected, rtol=1e-10, atol=1e-12)

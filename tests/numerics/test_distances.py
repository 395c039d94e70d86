"""Distances and second moments keep their digits in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import method

from jgmm.covariance.diag import Diag
from jgmm.numerics.distances import squared_distances

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("apart", [1.0, 1e3])
def test_float32_distances_and_variances_survive_any_offset(offset, apart, rng):
    """Two clusters `apart` standard deviations from each other, `offset` from the origin."""
    labels = np.arange(2000) % 2
    exact = rng.normal(size=(2000, 3)) + offset + apart * labels[:, None]
    x = exact.astype(np.float32)
    means = np.array([[offset] * 3, [offset + apart] * 3], np.float32)
    distance = jax.jit(lambda x: squared_distances(jnp.asarray(means), jnp.ones((2, 3), jnp.float32))(x))(x)
    own = np.take_along_axis(np.asarray(distance), labels[:, None], axis=1)[:, 0]
    expected = ((x.astype(np.float64) - means[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(own, expected, atol=2e-3 if apart == 1 else 1e-4)
    diag = Diag.identity(2, 3, "float32")
    r = jnp.asarray(np.eye(2, dtype=np.float32)[labels])
    moments = method(diag, "moments", jnp.asarray(x), r, jnp.asarray(means))
    square = (x.astype(np.float64) - means[labels]) ** 2
    brute = np.stack([square[labels == k].sum(axis=0) for k in (0, 1)])
    np.testing.assert_allclose(moments, brute, rtol=1e-5)

"""Mixtures as vectors of real numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, fit_by_sklearn, random_mixture

from jgmm.tables import COVARIANCES
from jgmm.unconstrained import flatten, n_parameters, unflatten

families = pytest.mark.parametrize("family", COVARIANCES)


@families
@pytest.mark.usefixtures("x64")
def test_there_and_back(family, rng):
    gmm = random_mixture(rng, family, 3, 4)
    for epsilon in (0.0, 1e-3):
        size, make = unflatten(3, 4, family, epsilon)
        vector = flatten(gmm, epsilon)
        assert vector.shape == (size,)
        again = make(vector)
        np.testing.assert_allclose(dense(again), dense(gmm), rtol=1e-12)
        np.testing.assert_allclose(again.means, gmm.means)
        np.testing.assert_allclose(again.log_weights, gmm.log_weights, rtol=1e-10)


@families
def test_any_numbers_make_a_mixture_and_every_one_has_a_gradient(family, rng):
    size, make = unflatten(3, 4, family, 1e-6)
    for scale in (1.0, 50.0, 1e30):
        gmm = make(jnp.asarray(scale * rng.normal(size=size), jnp.float32))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gmm))
        assert np.exp(gmm.log_weights).sum() == pytest.approx(1, rel=1e-5)
        assert np.linalg.eigvalsh(dense(make(jnp.asarray(rng.normal(size=size))))).min() > 0
    some = jnp.asarray(rng.normal(size=size), jnp.float32)
    jacobian = jax.jacobian(lambda v: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(make(v))]))(some)
    assert (np.abs(jacobian).max(axis=0) > 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_free_parameters_are_counted_as_by_scikit_learn(family, rng):
    gmm = random_mixture(rng, family, 3, 4)
    x = rng.normal(size=(60, 4))
    assert n_parameters(gmm) == fit_by_sklearn(gmm, family, x, 1)._n_parameters()

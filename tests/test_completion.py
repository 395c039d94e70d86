"""Completed images against the dense mixture of all pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, random_mixture

from jgmm.completion import complete_images, pixel_marginal
from jgmm.covariance.full import Full
from jgmm.encoder.identity import Identity
from jgmm.encoder.pca import fit_pca
from jgmm.errors import InputError
from jgmm.mixture import GMM
from jgmm.source import Source

SHAPE, P, CODES, N = (2, 2, 3), 12, 5, 20_000
KNOWN = np.zeros(SHAPE, bool)
KNOWN[0] = True


def source_and_dense(rng, family, rotated=True, dtype="float64"):
    """A source, and the same distribution of x0 as one mixture of full covariances."""
    x = rng.normal(size=(200, P)) @ rng.normal(size=(P, P))
    rotation = fit_pca(x, CODES, dtype=dtype)[0] if rotated else Identity(P)
    d = CODES if rotated else P
    gmm = random_mixture(rng, family, 3, d, dtype)
    mean, std = (jnp.asarray(v, dtype) for v in (rng.normal(size=(1, 1, 3)), rng.uniform(1, 2, size=(1, 1, 3))))
    params = Source(gmm, rotation, mean, std, SHAPE)
    jacobian = np.asarray(rotation.jacobian(jnp.arange(P)), np.float64) / np.broadcast_to(std, SHAPE).reshape(P, 1)
    whole = np.tile(np.eye(P), (3, 1, 1))
    whole[:, :d, :d] = dense(gmm)
    pixels = rotation.decode(gmm.means, jnp.zeros((3, P - d), dtype)).reshape(3, *SHAPE)
    means = ((pixels - mean[None]) / std[None]).reshape(3, P)
    covariance = Full.from_dense(jnp.asarray(jacobian @ whole @ jacobian.T, dtype))
    return params, GMM(gmm.log_weights, means, covariance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["diag", "full", "tied-spherical"])
def test_completions_are_those_of_the_dense_mixture(family, rng):
    params, whole = source_and_dense(rng, family)
    x0 = params.sample(jax.random.key(0), 2)
    found = complete_images(jax.random.key(1), params, x0.at[:, 1].set(jnp.nan), KNOWN, draws=N)
    b = np.flatnonzero(KNOWN)
    given = x0.reshape(2, P)[:, b]
    np.testing.assert_allclose(found.log_prob, whole.marginal(b).log_prob(given), rtol=1e-10)
    for i in range(2):
        expected = whole.conditional(None, b, given[i])
        mean, variance = expected.mean(), expected.variance()
        np.testing.assert_allclose(found.responsibilities[i], np.exp(expected.log_weights), atol=1e-10)
        np.testing.assert_allclose(found.mean[i].ravel()[6:], mean, rtol=1e-9, atol=1e-9)
        draws = found.draws[i].reshape(N, P)
        assert np.abs((draws[:, 6:].mean(axis=0) - mean) / np.sqrt(variance / N)).max() < 5
        np.testing.assert_allclose(draws[:, 6:].var(axis=0), variance, rtol=0.08)
        np.testing.assert_array_equal(draws[:, :6], np.tile(given[i], (N, 1)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rotated", [True, False])
def test_marginals_of_pixels(rotated, rng):
    params, whole = source_and_dense(rng, "full", rotated)
    found, expected = pixel_marginal(params, [7, 2, 3]), whole.marginal([7, 2, 3])
    np.testing.assert_allclose(dense(found), dense(expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-10)


@pytest.mark.slow
def test_float32_is_close_to_float64(rng):
    params, whole = source_and_dense(rng, "diag", dtype="float32")
    x0 = params.sample(jax.random.key(0), 3)
    found = complete_images(jax.random.key(1), params, x0, KNOWN)
    b = np.flatnonzero(KNOWN)
    for i in range(3):
        expected = whole.conditional(None, b, x0[i].ravel()[b]).mean()
        np.testing.assert_allclose(found.mean[i].ravel()[6:], expected, atol=2e-3)


def test_bad_input_is_refused(rng):
    params, _ = source_and_dense(rng, "diag", dtype="float32")
    x0, key = jnp.zeros((2, *SHAPE)), jax.random.key(0)
    bare = Source(params.gmm, fit_pca(rng.normal(size=(50, P)), CODES, residual="none")[0], *params_norm(params), SHAPE)
    for call, message in (
        (lambda: complete_images(key, params, jnp.zeros((2, 3, 3, 3)), KNOWN), "expected images of shape"),
        (lambda: complete_images(key, params, x0, KNOWN[:1]), "expected a mask of shape"),
        (lambda: complete_images(key, params, x0, np.ones(SHAPE, bool)), "some unknown"),
        (lambda: complete_images(key, params, x0, KNOWN, draws=-1), "draws must be at least 0"),
        (lambda: complete_images(key, params, x0.at[0, 0].set(jnp.nan), KNOWN), "NaN"),
        (lambda: complete_images(key, bare, x0, KNOWN), "no density over pixels"),
        (lambda: pixel_marginal(params, [3, 3]), "different numbers from 0 to 11"),
        (lambda: pixel_marginal(params, [12]), "different numbers from 0 to 11"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def params_norm(params):
    return params.mean, params.std

"""Every family against dense matrices. A new line in the table inherits every test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, distances, method, random_mixture

from jgmm.covariance.full import Full
from jgmm.covariance.prior import Floor, Prior
from jgmm.registry import COVARIANCES

pytestmark = pytest.mark.usefixtures("x64")
families = pytest.mark.parametrize("family", COVARIANCES)
K, D, N = 3, 4, 50


@pytest.fixture
def points(rng):
    return jnp.asarray(rng.normal(size=(N, D)) * 3)


@pytest.fixture
def r(rng):
    return jnp.asarray(rng.dirichlet(np.ones(K), size=N))


@families
def test_distances_and_determinants_are_those_of_the_matrices(family, rng, points):
    gmm = random_mixture(rng, family)
    off = np.asarray(points)[:, None] - np.asarray(gmm.means)[None]
    expected = np.einsum("nkd,kde,nke->nk", off, np.linalg.inv(dense(gmm)), off)
    np.testing.assert_allclose(distances(gmm.covariance, gmm.means, points), expected, rtol=1e-10)
    log_det = np.broadcast_to(method(gmm.covariance, "log_det"), K)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(dense(gmm))[1], rtol=1e-10)
    diagonal = np.broadcast_to(method(gmm.covariance, "inverse_diagonal"), (K, D))
    np.testing.assert_allclose(diagonal, np.diagonal(np.linalg.inv(dense(gmm)), axis1=1, axis2=2), rtol=1e-10)


@families
def test_colored_noise_has_the_covariance(family, rng):
    gmm = random_mixture(rng, family)
    for k in range(K):
        factor = np.asarray(method(gmm.covariance, "color", jnp.full(D, k), jnp.eye(D))).T
        np.testing.assert_allclose(factor @ factor.T, dense(gmm)[k], rtol=1e-10, atol=1e-12)


@families
def test_variances_of_features_and_of_linear_images(family, rng):
    gmm = random_mixture(rng, family)
    a = rng.normal(size=(6, D))
    variance = np.broadcast_to(method(gmm.covariance, "variance"), (K, D))
    np.testing.assert_allclose(variance, np.diagonal(dense(gmm), axis1=1, axis2=2), rtol=1e-10)
    image = np.broadcast_to(method(gmm.covariance, "image_variance", jnp.asarray(a)), (K, 6))
    np.testing.assert_allclose(image, np.einsum("pd,kde,pe->kp", a, dense(gmm), a), rtol=1e-10)


@pytest.mark.parametrize("family", [family for family in COVARIANCES if "low-rank" not in family])
def test_update_is_the_mode_of_the_posterior(family, rng, points, r):
    """No covariance of the family nearby has a higher posterior density: the gradient is zero at the update."""
    gmm = random_mixture(rng, family)
    believed = rng.uniform(0.5, 2.0, size=(K, D))
    prior = Prior(strength=jnp.array(7.0), variance=jnp.asarray(believed))
    scatter = method(gmm.covariance, "moments", points, r, gmm.means)
    counts = r.sum(axis=0)
    best = method(gmm.covariance, "update", scatter, counts, prior, Floor(absolute=0.0))

    @jax.jit
    @jax.grad
    def gradient(covariance):
        likelihood = -0.5 * (r * (covariance.squared_mahalanobis(gmm.means)(points) + covariance.log_det()[None])).sum()
        inverse = covariance.inverse_diagonal()
        penalty = covariance.log_det() + (prior.variances(*inverse.shape) * inverse).sum(axis=1)
        return likelihood - 0.5 * prior.strength * penalty.sum()

    leaves = jax.tree.leaves(gradient(best))
    at_best = max(float(jnp.abs(jnp.tril(g) if g.ndim == 3 else g).max()) for g in leaves)
    assert at_best < 1e-8


@families
def test_moments_are_linear_and_sum_over_components_when_tied(family, rng, points, r):
    gmm = random_mixture(rng, family)
    covariance, means = gmm.covariance, gmm.means
    whole = method(covariance, "moments", points, r, means)
    parts = method(covariance, "moments", points[:20], r[:20], means) + method(
        covariance, "moments", points[20:], r[20:], means
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-10)
    pooled = method(covariance, "pooled_moments", points, r, means)
    np.testing.assert_allclose(pooled, whole.sum(axis=0, keepdims=True), rtol=1e-9)


def test_pooled_moments_ignore_rows_of_weight_zero(rng, points, r):
    full = random_mixture(rng, "full")
    weight = (jnp.arange(N) < 30).astype(float)[:, None]
    half = method(full.covariance, "pooled_moments", points, r * weight, full.means)
    np.testing.assert_allclose(
        half, method(full.covariance, "pooled_moments", points[:30], r[:30], full.means), rtol=1e-10
    )


@pytest.mark.parametrize("relative", [None, 0.0, 0.5])
def test_the_relative_floor_is_a_share_of_the_mean_variance(relative, rng):
    d, n = 5, 40
    x = rng.normal(size=(n, d)).astype(np.float32) * np.array([100, 10, 1, 1, 1], np.float32)
    scatter, counts = jnp.asarray(x.T @ x)[None], jnp.full(1, n, jnp.float32)
    updated = method(
        Full.identity(1, d, jnp.float32), "update", scatter, counts, Prior(), Floor(absolute=0.0, relative=relative)
    )
    expected = np.asarray(scatter[0]) / n
    share = d * np.finfo(np.float32).eps if relative is None else relative
    expected = expected + share * np.trace(expected) / d * np.eye(d)
    np.testing.assert_allclose(method(updated, "dense")[0], expected, rtol=1e-5, atol=1e-4)

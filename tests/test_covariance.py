"""Every family against dense matrices. A new line in the table inherits every test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, distances, method, random_mixture

from jgmm.centred import squared_distances
from jgmm.covariance.base import Prior
from jgmm.covariance.full import Full
from jgmm.products import grouped_matvec
from jgmm.tables import COVARIANCES

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
    trace = np.broadcast_to(method(gmm.covariance, "inverse_trace"), K)
    np.testing.assert_allclose(trace, np.trace(np.linalg.inv(dense(gmm)), axis1=1, axis2=2), rtol=1e-10)


@families
def test_coloured_noise_has_the_covariance(family, rng):
    gmm = random_mixture(rng, family)
    for k in range(K):
        factor = np.asarray(method(gmm.covariance, "colour", jnp.full(D, k), jnp.eye(D))).T
        np.testing.assert_allclose(factor @ factor.T, dense(gmm)[k], rtol=1e-10, atol=1e-12)


@families
def test_variances_of_features_and_of_linear_images(family, rng):
    gmm = random_mixture(rng, family)
    a = rng.normal(size=(6, D))
    variance = np.broadcast_to(method(gmm.covariance, "variance"), (K, D))
    np.testing.assert_allclose(variance, np.diagonal(dense(gmm), axis1=1, axis2=2), rtol=1e-10)
    image = np.broadcast_to(method(gmm.covariance, "image_variance", jnp.asarray(a)), (K, 6))
    np.testing.assert_allclose(image, np.einsum("pd,kde,pe->kp", a, dense(gmm), a), rtol=1e-10)


@families
def test_update_is_the_mode_of_the_posterior(family, rng, points, r):
    """No covariance of the family nearby has a higher posterior density: the gradient is zero at the update."""
    gmm = random_mixture(rng, family)
    prior = Prior(jnp.array(7.0), jnp.array(1.3), jnp.array(0.0))
    scatter = method(gmm.covariance, "moments", points, r, gmm.means)
    counts = r.sum(axis=0)
    best = method(gmm.covariance, "update", scatter, counts, prior)

    @jax.jit
    @jax.grad
    def gradient(covariance):
        likelihood = -0.5 * (r * (covariance.mahalanobis(gmm.means)(points) + covariance.log_det()[None])).sum()
        penalty = covariance.log_det() + prior.variance * covariance.inverse_trace()
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
    diag = COVARIANCES["diag"](2, 3, "float32")
    r = jnp.asarray(np.eye(2, dtype=np.float32)[labels])
    moments = method(diag, "moments", jnp.asarray(x), r, jnp.asarray(means))
    square = (x.astype(np.float64) - means[labels]) ** 2
    brute = np.stack([square[labels == k].sum(axis=0) for k in (0, 1)])
    np.testing.assert_allclose(moments, brute, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 5, 64, 300])
def test_grouped_products_equal_gathered_ones(n, rng):
    matrices = rng.normal(size=(7, D, D))
    group = rng.choice([0, 3, 3, 6], size=n)
    x = rng.normal(size=(n, D))
    y = jax.jit(grouped_matvec)(jnp.asarray(matrices), jnp.asarray(group, jnp.int32), jnp.asarray(x))
    np.testing.assert_allclose(y, np.einsum("nde,ne->nd", matrices[group], x), rtol=1e-10)


@pytest.mark.parametrize("relative", [None, 0.0, 0.5])
def test_the_relative_floor_is_a_share_of_the_mean_variance(relative, rng):
    d, n = 5, 40
    x = rng.normal(size=(n, d)).astype(np.float32) * np.array([100, 10, 1, 1, 1], np.float32)
    scatter, counts = jnp.asarray(x.T @ x)[None], jnp.full(1, n, jnp.float32)
    updated = method(Full.identity(1, d, jnp.float32), "update", scatter, counts, Prior(0.0, 1.0, 0.0, relative))
    expected = np.asarray(scatter[0]) / n
    share = d * np.finfo(np.float32).eps if relative is None else relative
    expected = expected + share * np.trace(expected) / d * np.eye(d)
    np.testing.assert_allclose(method(updated, "dense")[0], expected, rtol=1e-5, atol=1e-4)

"""Mixtures of any batch shape, against scipy and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, log_joint_by_scipy, random_mixture
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from jgmm import distribution, mixture
from jgmm.checks import InputError
from jgmm.tables import COVARIANCES

pytestmark = pytest.mark.usefixtures("x64")
families = pytest.mark.parametrize("family", COVARIANCES)
K, D = 3, 4


def batch_of(rng, family, shape):
    """Different mixtures, and the same as one pytree of that batch shape."""
    singles = [random_mixture(rng, family, K, D) for _ in range(int(np.prod(shape)))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape), *singles)
    return singles, stacked


@pytest.mark.parametrize(("family", "lead"), [*((family, (5, 2)) for family in COVARIANCES), ("full", ())])
def test_densities_of_a_single_mixture(family, lead, rng):
    gmm = random_mixture(rng, family, K, D)
    x = rng.normal(size=(*lead, D)) * 3
    joint = log_joint_by_scipy(gmm, x.reshape(-1, D)).reshape(*lead, K)
    np.testing.assert_allclose(distribution.log_prob(gmm, jnp.asarray(x)), logsumexp(joint, axis=-1), rtol=1e-10)
    np.testing.assert_allclose(
        distribution.component_log_prob(gmm, jnp.asarray(x)), joint - np.asarray(gmm.log_weights), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("family", "batch", "points", "expected"),
    [
        *((family, (4,), (5, 1, D), (5, 4)) for family in COVARIANCES),
        ("diag", (4,), (D,), (4,)),
        ("full", (4,), (4, D), (4,)),
        ("tied", (2, 2), (5, 2, 2, D), (5, 2, 2)),
    ],
)
def test_densities_of_a_batch_broadcast(family, batch, points, expected, rng):
    singles, gmm = batch_of(rng, family, batch)
    x = rng.normal(size=points) * 3
    whole = np.broadcast_to(x, (*expected, D)).reshape(-1, len(singles), D)
    joint = np.stack([log_joint_by_scipy(g, whole[:, i]).reshape(-1, K) for i, g in enumerate(singles)], axis=1)
    found = distribution.log_prob(gmm, jnp.asarray(x))
    assert found.shape == expected
    np.testing.assert_allclose(np.ravel(found), logsumexp(joint, axis=-1).ravel(), rtol=1e-10)
    shares = distribution.responsibilities(gmm, jnp.asarray(x))
    np.testing.assert_allclose(np.ravel(shares), softmax(joint, axis=-1).ravel(), atol=1e-10)


@families
def test_moments_are_those_of_the_draws(family, rng):
    singles, gmm = batch_of(rng, family, (4,))
    n = 40_000
    x = np.asarray(distribution.sample(jax.random.key(0), gmm, (n,)))
    assert x.shape == (n, 4, D)
    mean, covariance = distribution.mean(gmm), distribution.covariance(gmm)
    for i, single in enumerate(singles):
        w, m = np.exp(single.log_weights), np.asarray(single.means)
        expected = np.einsum("k,kij->ij", w, dense(single) + m[:, :, None] * m[:, None])
        np.testing.assert_allclose(covariance[i], expected - np.outer(w @ m, w @ m), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mean[i], w @ m, rtol=1e-10)
        error = np.sqrt(np.diagonal(covariance[i]) / n)
        assert np.all(np.abs(x[:, i].mean(axis=0) - mean[i]) < 5 * error)
        np.testing.assert_allclose(np.cov(x[:, i].T), covariance[i], atol=0.04 * np.abs(covariance[i]).max())
    np.testing.assert_allclose(distribution.std(gmm) ** 2, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-9)
    np.testing.assert_allclose(distribution.weights(gmm).sum(axis=1), 1, rtol=1e-12)
    assert not np.allclose(x[:5, 0], x[:5, 1])


def test_sample_shapes(rng):
    _, gmm = batch_of(rng, "full", (2, 3))
    single = random_mixture(rng, "diag", K, D)
    key = jax.random.key(1)
    assert distribution.sample(key, gmm).shape == (2, 3, D)
    assert distribution.sample(key, gmm, (5, 4)).shape == (5, 4, 2, 3, D)
    assert distribution.sample(key, single).shape == (D,)
    assert distribution.sample(key, single, (0,)).shape == (0, D)
    with pytest.raises(InputError, match="must not be negative"):
        distribution.sample(key, single, (-1,))


@pytest.mark.parametrize("family", ["full", "tied-spherical"])
def test_quantiles_invert_the_distribution_function(family, rng):
    singles, gmm = batch_of(rng, family, (4,))
    q = jnp.array([0.001, 0.3, 0.5, 0.99])
    x = distribution.quantile(gmm, q)
    assert x.shape == (4, 4, D)
    np.testing.assert_allclose(distribution.cdf(gmm, x), np.broadcast_to(q[:, None, None], x.shape), atol=1e-12)
    single = singles[2]
    scale = np.sqrt(np.diagonal(dense(single), axis1=1, axis2=2))
    point = np.asarray(x[1, 2])
    brute = np.exp(single.log_weights) @ norm.cdf(point[None], np.asarray(single.means), scale)
    np.testing.assert_allclose(brute, 0.3, atol=1e-12)
    np.testing.assert_allclose(distribution.quantile(single, 0.3), point, rtol=1e-9)
    assert distribution.cdf(single, jnp.asarray(rng.normal(size=(7, D)))).shape == (7, D)


@pytest.mark.parametrize("family", ["full", "tied-diag", "spherical"])
def test_draws_carry_gradients_within_components(family, rng):
    """d E|x|² / d μ_k = 2 w_k μ_k, and scaling the covariances changes E|x|² by Σ_k w_k tr Σ_k."""
    _, gmm = batch_of(rng, family, (2,))

    def energy(means, scale):
        leaf = "cholesky" if family in ("full", "tied") else "variances"
        factor = scale if leaf == "cholesky" else scale**2
        covariance = jax.tree.map(lambda v: v * factor, gmm.covariance)
        moved = type(gmm)(gmm.log_weights, means, covariance)
        return (distribution.sample(jax.random.key(0), moved, (20_000,)) ** 2).sum(axis=2).mean(axis=0).sum()

    by_means, by_scale = jax.grad(energy, (0, 1))(gmm.means, 1.0)
    w = np.exp(gmm.log_weights)
    np.testing.assert_allclose(by_means, 2 * w[:, :, None] * gmm.means, atol=0.15)
    traces = np.asarray(distribution.covariance(gmm)).trace(axis1=1, axis2=2)
    between = (w[:, :, None] * gmm.means**2).sum(axis=(1, 2)) - (distribution.mean(gmm) ** 2).sum(axis=1)
    np.testing.assert_allclose(by_scale, 2 * (traces - between).sum(), rtol=0.05)


def test_wrong_shapes_are_refused(rng):
    _, gmm = batch_of(rng, "diag", (4,))
    with pytest.raises(InputError, match=r"expected points of shape \(\.\.\., 4\), got \(2, 3\)"):
        distribution.log_prob(gmm, jnp.zeros((2, 3)))
    with pytest.raises(InputError, match="do not broadcast with mixtures of batch shape"):
        distribution.log_prob(gmm, jnp.zeros((3, D)))
    for function in (mixture.mean, mixture.variance, lambda gmm: mixture.marginal(gmm, [0])):
        with pytest.raises(InputError, match=r"got a batch of shape \(4,\)"):
            function(gmm)


def test_nan_is_not_hidden(rng):
    for family in ("full", "diag"):
        _, gmm = batch_of(rng, family, (4,))
        assert np.isnan(distribution.log_prob(gmm, jnp.full((4, D), jnp.nan))).all()

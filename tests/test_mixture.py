"""Densities, draws, marginals and conditionals of every family, against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, log_joint_by_scipy, random_mixture
from scipy.special import logsumexp, softmax

from jgmm import mixture
from jgmm.checks import InputError
from jgmm.tables import COVARIANCES

pytestmark = pytest.mark.usefixtures("x64")
families = pytest.mark.parametrize("family", COVARIANCES)


@families
def test_log_prob_and_responsibilities(family, rng):
    gmm = random_mixture(rng, family)
    z = rng.normal(size=(20, gmm.d)) * 3
    joint = log_joint_by_scipy(gmm, z)
    np.testing.assert_allclose(mixture.log_prob(gmm, jnp.asarray(z)), logsumexp(joint, axis=1), rtol=1e-10)
    np.testing.assert_allclose(mixture.responsibilities(gmm, jnp.asarray(z)), softmax(joint, axis=1), atol=1e-10)


@families
def test_draws_have_the_exact_moments(family, rng):
    gmm = random_mixture(rng, family)
    n = 100_000
    z, k = mixture.sample(jax.random.key(0), gmm, n)
    error = np.sqrt(mixture.variance(gmm) / n)
    assert np.all(np.abs(z.mean(axis=0) - mixture.mean(gmm)) < 4 * error)
    np.testing.assert_allclose(z.var(axis=0), mixture.variance(gmm), rtol=0.03)
    share = np.bincount(k, minlength=gmm.k) / n
    np.testing.assert_allclose(share, np.exp(gmm.log_weights), atol=4 * 0.5 / np.sqrt(n))
    inside = np.cov(z[k == 1].T)
    np.testing.assert_allclose(inside, dense(gmm)[1], atol=0.05 * np.abs(dense(gmm)[1]).max())


@families
def test_one_component_of_weight_zero_is_never_drawn(family, rng):
    gmm = random_mixture(rng, family)
    off = gmm.log_weights.at[0].set(-jnp.inf)
    gmm = mixture.GMM(off - jax.nn.logsumexp(off), gmm.means, gmm.covariance)
    _, k = mixture.sample(jax.random.key(0), gmm, 5000)
    assert not (k == 0).any()
    z, k = mixture.sample(jax.random.key(0), gmm, 5, component=2)
    assert (k == 2).all()
    assert np.isfinite(mixture.log_prob(gmm, z)).all()


@families
def test_marginal_times_conditional_is_the_joint(family, rng):
    gmm = random_mixture(rng, family, d=5)
    z = jnp.asarray(rng.normal(size=(6, 5)))
    given, rest = [4, 1], [0, 2, 3]
    joint = mixture.log_prob(gmm, z)
    evidence = mixture.log_prob(mixture.marginal(gmm, given), z[:, jnp.array(given)])

    def conditional_log_prob(row):
        conditional = mixture.conditional(gmm, given, row[jnp.array(given)])
        return mixture.log_prob(conditional, row[jnp.array(rest)][None])[0]

    np.testing.assert_allclose(jax.jit(jax.vmap(conditional_log_prob))(z) + evidence, joint, rtol=1e-9)


@families
def test_marginal_of_matrices_in_any_order(family, rng):
    gmm = random_mixture(rng, family)
    part = mixture.marginal(gmm, [3, 0])
    np.testing.assert_allclose(part.means, gmm.means[:, jnp.array([3, 0])])
    np.testing.assert_allclose(dense(part), dense(gmm)[:, [3, 0]][:, :, [3, 0]], rtol=1e-9, atol=1e-12)


def test_conditional_of_one_gaussian_is_the_textbook_one(rng):
    gmm = random_mixture(rng, "full", k=1)
    c, m = dense(gmm)[0], np.asarray(gmm.means[0])
    value = np.array([0.3, -1.0])
    conditional = mixture.conditional(gmm, [0, 2], jnp.asarray(value))
    a, b = [1, 3], [0, 2]
    gain = c[np.ix_(a, b)] @ np.linalg.inv(c[np.ix_(b, b)])
    np.testing.assert_allclose(conditional.means[0], m[a] + gain @ (value - m[b]), rtol=1e-9)
    np.testing.assert_allclose(dense(conditional)[0], c[np.ix_(a, a)] - gain @ c[np.ix_(b, a)], rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: mixture.log_prob(g, jnp.zeros((2, 3))), r"\(n, 4\), got \(2, 3\)"),
        (lambda g: mixture.sample(jax.random.key(0), g, -1), "n must be at least 0"),
        (lambda g: mixture.sample(jax.random.key(0), g, 3, component=3), "from 0 to 2, got 3"),
        (lambda g: mixture.marginal(g, [0, 4]), "from 0 to 3"),
        (lambda g: mixture.marginal(g, [1, 1]), "named twice"),
        (lambda g: mixture.marginal(g, []), "non-empty"),
        (lambda g: mixture.conditional(g, [0], jnp.zeros(2)), r"shape \(1,\)"),
        (lambda g: mixture.conditional(g, [0, 1, 2, 3], jnp.zeros(4)), "nothing is left"),
    ],
)
def test_bad_input_is_refused(call, message, rng):
    with pytest.raises(InputError, match=message):
        call(random_mixture(rng, "diag"))

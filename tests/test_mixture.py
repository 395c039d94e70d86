"""Densities, draws, marginals and conditionals of every family, against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, few, fit_by_sklearn, log_joint_by_scipy, random_mixture
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from jgmm.errors import InputError
from jgmm.mixture import GMM, log_joint
from jgmm.registry import COVARIANCES

pytestmark = pytest.mark.usefixtures("x64")
families = pytest.mark.parametrize("family", few(COVARIANCES, "full", "diag", "tied", "low-rank"))
K, D = 3, 4


@families
def test_log_prob_and_responsibilities(family, rng):
    gmm = random_mixture(rng, family)
    z = rng.normal(size=(20, gmm.d)) * 3
    joint = log_joint_by_scipy(gmm, z)
    np.testing.assert_allclose(gmm.log_prob(jnp.asarray(z)), logsumexp(joint, axis=1), rtol=1e-10)
    np.testing.assert_allclose(gmm.responsibilities(jnp.asarray(z)), softmax(joint, axis=1), atol=1e-10)


@families
def test_draws_have_the_exact_moments(family, rng):
    gmm = random_mixture(rng, family)
    n = 100_000
    z, k = gmm.sample(jax.random.key(0), n, return_components=True)
    error = np.sqrt(gmm.variance() / n)
    assert np.all(np.abs(z.mean(axis=0) - gmm.mean()) < 4 * error)
    np.testing.assert_allclose(z.var(axis=0), gmm.variance(), rtol=0.03)
    share = np.bincount(k, minlength=gmm.k) / n
    np.testing.assert_allclose(share, np.exp(gmm.log_weights), atol=4 * 0.5 / np.sqrt(n))
    inside = np.cov(z[k == 1].T)
    np.testing.assert_allclose(inside, dense(gmm)[1], atol=0.05 * np.abs(dense(gmm)[1]).max())


@families
def test_one_component_of_weight_zero_is_never_drawn(family, rng):
    gmm = random_mixture(rng, family)
    off = gmm.log_weights.at[0].set(-jnp.inf)
    gmm = GMM(off - jax.nn.logsumexp(off), gmm.means, gmm.covariance)
    _, k = gmm.sample(jax.random.key(0), 5000, return_components=True)
    assert not (k == 0).any()
    z, k = gmm.sample(jax.random.key(0), 5, component=2, return_components=True)
    assert (k == 2).all()
    assert np.isfinite(gmm.log_prob(z)).all()


@families
def test_marginal_times_conditional_is_the_joint(family, rng):
    gmm = random_mixture(rng, family, d=5)
    z = jnp.asarray(rng.normal(size=(6, 5)))
    given, rest = [4, 1], [0, 2, 3]
    joint = gmm.log_prob(z)
    evidence = gmm.marginal(given).log_prob(z[:, jnp.array(given)])

    def conditional_log_prob(row):
        conditional = gmm.conditional(None, given, row[jnp.array(given)])
        return conditional.log_prob(row[jnp.array(rest)][None])[0]

    np.testing.assert_allclose(jax.jit(jax.vmap(conditional_log_prob))(z) + evidence, joint, rtol=1e-9)


@families
def test_marginal_of_matrices_in_any_order(family, rng):
    gmm = random_mixture(rng, family)
    part = gmm.marginal([3, 0])
    np.testing.assert_allclose(part.means, gmm.means[:, jnp.array([3, 0])])
    np.testing.assert_allclose(dense(part), dense(gmm)[:, [3, 0]][:, :, [3, 0]], rtol=1e-9, atol=1e-12)


def test_conditional_of_one_gaussian_is_the_textbook_one(rng):
    gmm = random_mixture(rng, "full", k=1)
    c, m = dense(gmm)[0], np.asarray(gmm.means[0])
    value = np.array([0.3, -1.0])
    conditional = gmm.conditional(None, [0, 2], jnp.asarray(value))
    a, b = [1, 3], [0, 2]
    gain = c[np.ix_(a, b)] @ np.linalg.inv(c[np.ix_(b, b)])
    np.testing.assert_allclose(conditional.means[0], m[a] + gain @ (value - m[b]), rtol=1e-9)
    np.testing.assert_allclose(dense(conditional)[0], c[np.ix_(a, a)] - gain @ c[np.ix_(b, a)], rtol=1e-9)


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
    np.testing.assert_allclose(gmm.log_prob(jnp.asarray(x)), logsumexp(joint, axis=-1), rtol=1e-10)
    np.testing.assert_allclose(gmm.component_log_prob(jnp.asarray(x)), joint - np.asarray(gmm.log_weights), rtol=1e-10)


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
    found = gmm.log_prob(jnp.asarray(x))
    assert found.shape == expected
    np.testing.assert_allclose(np.ravel(found), logsumexp(joint, axis=-1).ravel(), rtol=1e-10)
    shares = gmm.responsibilities(jnp.asarray(x))
    np.testing.assert_allclose(np.ravel(shares), softmax(joint, axis=-1).ravel(), atol=1e-10)


@families
def test_moments_are_those_of_the_draws(family, rng):
    singles, gmm = batch_of(rng, family, (4,))
    n = 40_000
    x = np.asarray(gmm.sample(jax.random.key(0), (n,)))
    assert x.shape == (n, 4, D)
    mean, covariance = gmm.mean(), gmm.covariance_matrix()
    for i, single in enumerate(singles):
        w, m = np.exp(single.log_weights), np.asarray(single.means)
        expected = np.einsum("k,kij->ij", w, dense(single) + m[:, :, None] * m[:, None])
        np.testing.assert_allclose(covariance[i], expected - np.outer(w @ m, w @ m), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mean[i], w @ m, rtol=1e-10)
        error = np.sqrt(np.diagonal(covariance[i]) / n)
        assert np.all(np.abs(x[:, i].mean(axis=0) - mean[i]) < 5 * error)
        np.testing.assert_allclose(np.cov(x[:, i].T), covariance[i], atol=0.04 * np.abs(covariance[i]).max())
    np.testing.assert_allclose(gmm.std() ** 2, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-9)
    np.testing.assert_allclose(gmm.weights.sum(axis=1), 1, rtol=1e-12)
    assert not np.allclose(x[:5, 0], x[:5, 1])


def test_sample_shapes(rng):
    _, gmm = batch_of(rng, "full", (2, 3))
    single = random_mixture(rng, "diag", K, D)
    key = jax.random.key(1)
    assert gmm.sample(key).shape == (2, 3, D)
    assert gmm.sample(key, (5, 4)).shape == (5, 4, 2, 3, D)
    assert single.sample(key).shape == (D,)
    assert single.sample(key, (0,)).shape == (0, D)
    with pytest.raises(InputError, match="n must be at least 0"):
        single.sample(key, (-1,))


@pytest.mark.parametrize("family", ["full", "tied-spherical"])
def test_quantiles_invert_the_distribution_function(family, rng):
    singles, gmm = batch_of(rng, family, (4,))
    q = jnp.array([0.001, 0.3, 0.5, 0.99])
    x = gmm.quantile(q)
    assert x.shape == (4, 4, D)
    np.testing.assert_allclose(gmm.cdf(x), np.broadcast_to(q[:, None, None], x.shape), atol=1e-12)
    single = singles[2]
    scale = np.sqrt(np.diagonal(dense(single), axis1=1, axis2=2))
    point = np.asarray(x[1, 2])
    brute = np.exp(single.log_weights) @ norm.cdf(point[None], np.asarray(single.means), scale)
    np.testing.assert_allclose(brute, 0.3, atol=1e-12)
    np.testing.assert_allclose(single.quantile(0.3), point, rtol=1e-9)
    assert single.cdf(jnp.asarray(rng.normal(size=(7, D)))).shape == (7, D)


@pytest.mark.parametrize("family", ["full", "tied-diag", "spherical"])
def test_draws_carry_gradients_within_components(family, rng):
    """d E|x|² / d μ_k = 2 w_k μ_k, and scaling the covariances changes E|x|² by Σ_k w_k tr Σ_k."""
    _, gmm = batch_of(rng, family, (2,))

    def energy(means, scale):
        leaf = "cholesky" if family in ("full", "tied") else "variances"
        factor = scale if leaf == "cholesky" else scale**2
        covariance = jax.tree.map(lambda v: v * factor, gmm.covariance)
        moved = type(gmm)(gmm.log_weights, means, covariance)
        return (moved.sample(jax.random.key(0), (20_000,)) ** 2).sum(axis=2).mean(axis=0).sum()

    by_means, by_scale = jax.grad(energy, (0, 1))(gmm.means, 1.0)
    w = np.exp(gmm.log_weights)
    np.testing.assert_allclose(by_means, 2 * w[:, :, None] * gmm.means, atol=0.15)
    traces = np.asarray(gmm.covariance_matrix()).trace(axis1=1, axis2=2)
    between = (w[:, :, None] * gmm.means**2).sum(axis=(1, 2)) - (gmm.mean() ** 2).sum(axis=1)
    np.testing.assert_allclose(by_scale, 2 * (traces - between).sum(), rtol=0.05)


def test_wrong_shapes_are_refused(rng):
    _, gmm = batch_of(rng, "diag", (4,))
    with pytest.raises(InputError, match=r"expected points of shape \(\.\.\., 4\), got \(2, 3\)"):
        gmm.log_prob(jnp.zeros((2, 3)))
    with pytest.raises(InputError, match="do not broadcast with mixtures of batch shape"):
        gmm.log_prob(jnp.zeros((3, D)))
    with pytest.raises(InputError, match=r"expected one mixture, got a batch of shape \(4,\)"):
        log_joint(gmm)


def test_nan_is_not_hidden(rng):
    for family in ("full", "diag"):
        _, gmm = batch_of(rng, family, (4,))
        assert np.isnan(gmm.log_prob(jnp.full((4, D), jnp.nan))).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_free_parameters_are_counted_as_by_scikit_learn(family, rng):
    gmm = random_mixture(rng, family, 3, 4)
    x = rng.normal(size=(60, 4))
    assert gmm.n_parameters == fit_by_sklearn(gmm, family, x, 1)._n_parameters()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.log_prob(jnp.zeros((2, 3))), r"\(\.\.\., 4\), got \(2, 3\)"),
        (lambda g: g.sample(jax.random.key(0), -1), "n must be at least 0"),
        (lambda g: g.sample(jax.random.key(0), 3, component=3), "from 0 to 2, got 3"),
        (lambda g: g.marginal([0, 4]), "from 0 to 3"),
        (lambda g: g.marginal([1, 1]), "named twice"),
        (lambda g: g.marginal([]), "non-empty"),
        (lambda g: g.conditional(None, [0], jnp.zeros(2)), r"shape \(\.\.\., 1\) as given"),
        (lambda g: g.conditional(None, [0, 1, 2, 3], jnp.zeros(4)), "nothing is left"),
        (lambda g: GMM(jnp.zeros(3), g.means, g.covariance), "must sum to 1, got 3"),
    ],
)
def test_bad_input_is_refused(call, message, rng):
    with pytest.raises(InputError, match=message):
        call(random_mixture(rng, "diag"))


@pytest.mark.parametrize("family", [family for family in COVARIANCES if "low-rank" not in family])
def test_scikit_learns_three_arrays_there_and_back(family, rng):
    gmm = random_mixture(rng, family)
    weights, means, covariances = gmm.to_parameters()
    again = GMM.from_parameters(np.asarray(weights), np.asarray(means).tolist(), np.asarray(covariances))
    assert again.covariance.name == family
    x = rng.normal(size=(9, gmm.d))
    np.testing.assert_allclose(again.log_prob(x), gmm.log_prob(x), rtol=1e-10)
    named = GMM.from_parameters(weights, means, covariances, family)
    np.testing.assert_allclose(named.log_prob(x), gmm.log_prob(x), rtol=1e-10)
    np.testing.assert_array_equal(gmm.predict(x), gmm.responsibilities(x).argmax(axis=1))


def test_parameters_that_say_too_little_or_too_much_are_refused():
    two = [[0.0, 0.0], [1.0, 1.0]]
    for arguments, message in (
        (([0.5, 0.5], two, np.eye(2)), "may be diag or tied: pass covariance_type"),
        (([0.5, 0.5], two, np.ones(3)), "fit no family for k=2 and d=2"),
        (([0.5, 0.6], two, 1.0), "weights must sum to 1, got 1.1"),
        (([1.0], two, 1.0), r"weights must have shape \(2,\)"),
        (([0.5, 0.5], two, [[[1.0, 2.0], [2.0, 1.0]]] * 2), "positive definite"),
        (([0.5, 0.5], two, [-1.0, 1.0], "spherical"), "positive definite"),
    ):
        with pytest.raises(InputError, match=message):
            GMM.from_parameters(*arguments)


def test_a_mask_of_features_is_a_mask(rng):
    gmm = random_mixture(rng, "full")
    mask = np.array([True, False, False, True])
    np.testing.assert_array_equal(gmm.marginal(mask).means, gmm.means[:, jnp.array([0, 3])])
    with pytest.raises(InputError, match="mask must have shape"):
        gmm.marginal(mask[:3])

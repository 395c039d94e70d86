"""The prior that is learned: against mixtures whose hierarchy is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jgmm
from jgmm.covariance.diag import Diag
from jgmm.covariance.prior import Prior
from jgmm.em.hierarchy import hierarchical, learned_from
from jgmm.em.loop import run_em
from jgmm.errors import InputError
from jgmm.mixture import GMM

K, D, N = 60, 200, 400


def as_mixture(means, variances):
    k = len(means)
    log_weights = jnp.full(k, -np.log(k), jnp.float32)
    return GMM(log_weights, jnp.asarray(means, jnp.float32), Diag(jnp.asarray(variances, jnp.float32)))


@pytest.fixture
def profiles(rng):
    """Variances of components that differ in two ways alone."""
    return np.exp(0.5 * rng.normal(size=(K, 2)) @ rng.normal(size=(2, D)))


def sampled(rng, variances, n=N):
    return variances * rng.chisquare(n, size=variances.shape) / n


def test_what_components_have_in_common_is_nearer_to_the_truth_than_each_alone(profiles, rng):
    found = sampled(rng, profiles)
    prior = learned_from(as_mixture(np.zeros((K, D)), found), np.full(K, N))
    error = np.abs(np.log(np.asarray(prior.variance) / profiles)).mean()
    assert error < 0.4 * np.abs(np.log(found / profiles)).mean()
    assert float(prior.strength) > 3 * N  # they differ by no more than sampling


@pytest.mark.parametrize("strength", [20.0, 100.0])
def test_the_strength_is_how_firmly_the_components_keep_to_it(strength, profiles, rng):
    own = profiles * strength / rng.chisquare(strength, size=profiles.shape)
    prior = learned_from(as_mixture(np.zeros((K, D)), sampled(rng, own)), np.full(K, N))
    assert float(prior.strength) == pytest.approx(strength, rel=0.25)


@pytest.mark.parametrize("kappa", [0.5, 30.0])
def test_the_strength_of_the_means_is_how_near_they_are_to_the_common_one(kappa, profiles, rng):
    own = rng.normal(size=(K, D)) * np.sqrt(profiles / kappa)
    means = own + rng.normal(size=(K, D)) * np.sqrt(profiles / N)
    prior = learned_from(as_mixture(means + 3, profiles), np.full(K, N))
    assert float(prior.mean_strength) == pytest.approx(kappa, rel=0.1)
    np.testing.assert_allclose(prior.mean, 3 + means.mean(axis=0), atol=1e-4)


def test_one_component_has_no_prior(rng):
    assert learned_from(as_mixture(np.zeros((1, 3)), np.ones((1, 3))), np.array([50.0])) == Prior()


def test_a_strength_that_is_asked_for_is_taken(profiles):
    prior = hierarchical(None, 7.0)(as_mixture(np.zeros((K, D)), profiles), np.full(K, N))
    assert float(prior.strength) == 7.0


@pytest.mark.slow
def test_held_out_rows_gain_and_the_objective_never_falls(profiles, rng):
    """Ten components of 40 rows each: maximum likelihood overfits, the learned prior does not."""
    k, n = 10, 400
    x, held_out = (
        jnp.asarray(rng.normal(size=(n, D)) * np.sqrt(profiles[np.arange(n) % k]), jnp.float32) for _ in range(2)
    )

    def fit(prior):
        return run_em(jax.random.key(0), x, k=k, init="log-energy", prior=prior, max_iter=20, tol=0.0)

    plain, learned = fit(None), fit(hierarchical(x))
    assert np.diff(learned.history).min() > -1e-3
    gain = float(learned.gmm.log_prob(held_out).mean() - plain.gmm.log_prob(held_out).mean())
    assert gain > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": [1.0, 2.0]}, r"variance of the prior must broadcast to \(2, 3\)"),
        ({"mean": np.zeros(4)}, r"mean of the prior must broadcast to \(3,\)"),
        ({"variance": -1.0}, "must be above 0"),
        ({"variance": "wide"}, "variance must be numbers"),
        ({"mean_strength": -1.0}, "mean_strength must be at least 0"),
        ({"mean": [0.0, np.nan, 0.0]}, "mean must be finite"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(options, message, rng):
    x = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)
    with pytest.raises(InputError, match=message):
        run_em(jax.random.key(0), x, k=2, prior=jgmm.Prior(**{"strength": 1.0, **options}))

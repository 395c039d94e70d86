"""Missing values: one step against marginals and conditionals of each row, whole fits, and what is filled in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, random_mixture
from sklearn.datasets import load_digits, load_iris

import jgmm
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.missing import observed_log_prob, with_missing
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import em_step
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES

NO_FLOOR = Floor(absolute=0.0, relative=0.0)
OTHERS = [family for family in COVARIANCES if family not in ("full", "diag")]
ADDITIVE = [family for family in OTHERS if "low-rank" not in family]


def with_gaps(x, share=0.3, seed=0):
    """Some values gone, but not a whole row."""
    rng = np.random.default_rng(seed)
    gaps = rng.random(x.shape) < share
    gaps[np.arange(len(x)), rng.integers(x.shape[1], size=len(x))] = False
    return np.where(gaps, np.nan, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "diag", *(pytest.param(f, marks=pytest.mark.slow) for f in OTHERS)])
def test_rows_are_explained_and_filled_in_by_marginals_and_conditionals(family, rng):
    gmm = random_mixture(rng, family)
    x = with_gaps(3 * rng.normal(size=(12, gmm.d)))
    found, filled = observed_log_prob(gmm, x), jgmm.impute(gmm, x)
    for row, log_p, whole in zip(x, found, filled, strict=True):
        seen = np.flatnonzero(~np.isnan(row))
        assert float(log_p) == pytest.approx(float(gmm.marginal(seen).log_prob(row[seen])), rel=1e-9)
        np.testing.assert_allclose(whole[seen], row[seen])
        if len(seen) < gmm.d:
            rest = gmm.conditional(None, seen, row[seen])
            np.testing.assert_allclose(np.delete(whole, seen), rest.mean(), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_step_is_that_of_its_formulas(rng):
    gmm = random_mixture(rng, "full")
    x, weight = with_gaps(3 * rng.normal(size=(40, gmm.d))), rng.integers(1, 4, 40).astype(float)
    new, _, _ = with_missing(gmm, jnp.asarray(x), jnp.asarray(weight), Prior(), NO_FLOOR, max_iter=1, tol=0.0)
    counts, sums, squares = 0, 0, 0
    for row, w in zip(x, weight, strict=True):
        seen, gone = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        joint = gmm.marginal(seen).component_log_prob(row[seen]) + gmm.log_weights
        r = w * np.asarray(jax.nn.softmax(joint))
        expected, left = np.tile(row, (gmm.k, 1)), np.zeros((gmm.k, gmm.d, gmm.d))
        if gone.size:
            rest = gmm.conditional(gone, seen, row[seen])
            expected[:, gone] = rest.means
            left[np.ix_(range(gmm.k), gone, gone)] = dense(rest)
        counts, sums = counts + r, sums + r[:, None] * expected
        squares = squares + r[:, None, None] * (expected[:, :, None] * expected[:, None] + left)
    means = sums / counts[:, None]
    np.testing.assert_allclose(new.means, means, rtol=1e-8, atol=1e-9)
    covariance = squares / counts[:, None, None] - means[:, :, None] * means[:, None]
    np.testing.assert_allclose(dense(new), covariance, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(new.weights, counts / counts.sum(), rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "diag", *(pytest.param(f, marks=pytest.mark.slow) for f in ADDITIVE)])
def test_without_gaps_it_is_em_and_with_them_the_objective_never_falls(family, rng):
    gmm, x = random_mixture(rng, family), jnp.asarray(3 * rng.normal(size=(60, 4)))
    prior = Prior(strength=2.0, mean_strength=1.0)
    found, history, _ = with_missing(gmm, x, None, prior, NO_FLOOR, max_iter=1, tol=0.0)
    step = em_step(gmm, RowsInMemory(x), prior, NO_FLOOR)
    assert history[0] == pytest.approx((float(step.log_likelihood) + float(step.log_prior)) / 60, rel=1e-12)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(step.gmm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    gaps = jnp.asarray(with_gaps(np.asarray(x)))
    _, history, _ = with_missing(gmm, gaps, None, prior, NO_FLOOR, max_iter=30, tol=0.0)
    assert np.diff(history).min() > -1e-10


def test_gaps_are_filled_in_better_than_by_means():
    rng = np.random.default_rng(0)
    x = (load_digits().data + rng.uniform(size=(1797, 64)))[:, 18:46:2]
    train, held_out = with_gaps(x[:600], 0.2), with_gaps(x[600:1000], 0.2, 1)
    options = {"k": 3, "covariance_type": "full", "prior": jgmm.Prior(strength=20.0), "max_iter": 15}
    fit = jgmm.fit_em(0, train, missing="marginal", **options)
    means = np.nanmean(train, axis=0)
    gaps, truth = np.isnan(held_out), x[600:1000]
    filled_in = np.asarray(jgmm.impute(fit.gmm, held_out))
    errors = [np.mean((values - truth)[gaps] ** 2) for values in (filled_in, np.broadcast_to(means, truth.shape))]
    assert errors[0] < 0.7 * errors[1]
    by_means = jgmm.fit_em(0, np.where(np.isnan(train), means, train), **options)
    likelihoods = [float(observed_log_prob(found.gmm, held_out).mean()) for found in (fit, by_means)]
    assert likelihoods[0] > likelihoods[1] + 0.2


def test_units_of_features_are_those_of_what_is_observed():
    x = with_gaps(load_iris().data * [1.0, 1e3, 1e-3, 1.0])
    fit = jgmm.fit_em(0, x, 3, covariance_type="diag", missing="marginal", max_iter=200, tol=1e-6)
    assert fit.history[-1] == pytest.approx(float(observed_log_prob(fit.gmm, x).mean()), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda x: x, {"missing": "mean"}, "'error' or 'marginal'"),
        (lambda x: x, {}, "NaN"),
        (
            lambda x: np.where(np.arange(4) == 2, np.nan, x),
            {"missing": "marginal"},
            "feature 2 is missing in every row",
        ),
        (lambda x: np.where(np.isnan(x), np.inf, x), {"missing": "marginal"}, "infinite"),
        (lambda x: x, {"missing": "marginal", "scales": 2}, "leave scales out"),
        (lambda x: x, {"missing": "marginal", "encoder": "pca"}, "keeps features apart"),
    ],
)
def test_gaps_that_cannot_be_are_refused(change, options, words):
    with pytest.raises(InputError, match=words):
        jgmm.fit_em(0, change(with_gaps(load_iris().data)), 2, max_iter=2, **options)

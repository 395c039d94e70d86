"""Rows that count more than once: weights against copies of rows, and against scikit-learn on those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fit_by_sklearn
from sklearn.datasets import load_iris

import jgmm
from jgmm.covariance.prior import Floor, Prior
from jgmm.em import initializers
from jgmm.em.loop import run_em
from jgmm.em.rows import RowsInMemory
from jgmm.em.scales import with_scales
from jgmm.em.steps import em_step
from jgmm.encoder.standardize import Standardize, robust
from jgmm.errors import InputError
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES

NO_FLOOR = Floor(absolute=0.0, relative=0.0)
OTHERS = [family for family in COVARIANCES if family not in ("full", "diag")]


@pytest.fixture
def iris():
    """Rows, how often each counts, and the copies."""
    x, weight = load_iris().data, np.random.default_rng(0).integers(0, 4, 150)
    return x, weight, np.repeat(x, weight, axis=0)


def start_from(x, family):
    """A mixture of three components of a family, from the thirds of a table."""
    fit = jgmm.fit_em(0, x, 3, covariance_type=family, max_iter=2, encoder="identity", scales=1)
    return GMM(fit.gmm.log_weights, fit.gmm.means, fit.gmm.covariance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "diag", *(pytest.param(f, marks=pytest.mark.slow) for f in OTHERS)])
def test_a_step_with_weights_is_one_with_copies(family, iris):
    x, weight, copies = iris
    prior = Prior(strength=3.0, mean_strength=2.0, mean=1.0)
    counted = weight > 0
    start = start_from(x, family)
    weighed = RowsInMemory(jnp.asarray(x[counted]), jnp.asarray(weight[counted], float))
    found = em_step(start, weighed, prior, NO_FLOOR)
    expected = em_step(start, RowsInMemory(jnp.asarray(copies)), prior, NO_FLOOR)
    assert float(found.log_likelihood) == pytest.approx(float(expected.log_likelihood), rel=1e-12)
    for a, b in zip(jax.tree.leaves(found.gmm), jax.tree.leaves(expected.gmm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_a_fit_with_weights_is_scikit_learns_of_copies(family, iris):
    x, weight, copies = iris
    start = start_from(x, family)
    floor = Floor(absolute=1e-6, relative=0.0)
    fit = jgmm.fit_em(0, x, start=start, sample_weight=weight, encoder="identity", floor=floor, tol=0.0, max_iter=20)
    expected = fit_by_sklearn(start, family, copies, 20, reg_covar=1e-6)
    found = fit.gmm.to_parameters()
    np.testing.assert_allclose(found.weights, expected.weights_, atol=1e-10)
    np.testing.assert_allclose(found.means, expected.means_, atol=1e-10)
    np.testing.assert_allclose(found.covariances, expected.covariances_, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{}, {"chunk_size": 64}], ids=["small", "compiled"])
def test_a_whole_fit_with_weights_is_one_with_copies(options, iris):
    x, weight, copies = iris
    found = jgmm.fit_em(0, x, 3, covariance_type="full", sample_weight=weight, tol=1e-9, max_iter=500, **options)
    expected = jgmm.fit_em(0, copies, 3, covariance_type="full", tol=1e-9, max_iter=500, **options)
    assert found.history[-1] == pytest.approx(expected.history[-1], abs=1e-8)
    assert float(found.gmm.log_prob(copies).mean()) == pytest.approx(
        float(expected.gmm.log_prob(copies).mean()), abs=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_units_are_those_of_the_copies(iris):
    x, weight, copies = iris
    for fit in (robust, Standardize.fit):
        found, expected = fit(jnp.asarray(x), weight=jnp.asarray(weight, float)), fit(jnp.asarray(copies))
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-12)
    # Weights that are no whole numbers mean the same in any unit.
    shares = jnp.asarray(np.random.default_rng(1).uniform(0.1, 1, 150))
    np.testing.assert_allclose(
        robust(jnp.asarray(x), weight=shares).scale, robust(jnp.asarray(x), weight=7 * shares).scale
    )


@pytest.mark.usefixtures("x64")
def test_scales_and_small_components_count_weights_too(iris):
    x, weight, copies = iris
    start, counted = start_from(x, "full"), weight > 0
    weighed = RowsInMemory(jnp.asarray(x[counted]), jnp.asarray(weight[counted], float))
    found, history, _ = with_scales(start, weighed, 3, Prior(), NO_FLOOR, max_iter=5, tol=0.0)
    expected, same, _ = with_scales(start, RowsInMemory(jnp.asarray(copies)), 3, Prior(), NO_FLOOR, max_iter=5, tol=0.0)
    np.testing.assert_allclose(history, same, rtol=1e-12)
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-10)
    options = {"k": 6, "min_count": 30.0, "max_iter": 5, "tol": 0.0, "init": lambda *_: jnp.asarray(x[:6])}
    key = jax.random.key(0)
    found = run_em(key, weighed.x, sample_weight=weighed.weight, **options)
    expected = run_em(key, jnp.asarray(copies), **options)
    assert found.revived == expected.revived
    np.testing.assert_allclose(found.history, expected.history, rtol=1e-10)


@pytest.mark.slow
def test_weights_that_are_no_whole_numbers_mean_the_same_in_any_unit(iris):
    x, _, _ = iris
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 150)
    for options in ({}, {"scales": 2}):
        fits = [jgmm.fit_em(0, x, 5, sample_weight=unit * weight, **options) for unit in (1.0, 1 / 150)]
        assert fits[0].history[-1] == pytest.approx(fits[1].history[-1], abs=2e-3)


@pytest.mark.parametrize("name", ["kmeans", "kmeans_plusplus", "random", "log_energy"])
def test_starts_lie_where_the_weight_is(name):
    """Two clusters, of which one hardly counts."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.concatenate([rng.normal(size=(100, 3)), 5 + rng.normal(size=(100, 3))]), jnp.float32)
    weight = jnp.asarray(np.repeat([1.0, 1e-9], 100), jnp.float32)
    found = getattr(initializers, name)(jax.random.key(0), x, 2, jnp.ones(3), weight)
    if found.ndim == 2:
        assert (np.asarray(found).mean(axis=1) < 3).all()
    else:
        assert len(np.unique(found[:100])) == 2


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.ones(3), r"shape \(150,\)"),
        (-np.ones(150), "negative"),
        (np.zeros(150), "zero for all"),
        (np.full(150, np.nan), "NaN"),
        ("heavy", "sample_weight"),
    ],
)
def test_what_is_no_weight_is_refused(weight, words):
    with pytest.raises(InputError, match=words):
        jgmm.fit_em(0, load_iris().data, 2, sample_weight=weight)

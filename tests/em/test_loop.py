"""EM against scikit-learn, brute-force sums and its own invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SKLEARN, dense, few, fit_by_sklearn, random_mixture
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import jgmm
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.loop import run_em
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import e_step, in_family
from jgmm.errors import InputError
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES, INITIALIZERS

families = pytest.mark.parametrize("family", few(COVARIANCES, "full", "diag", "tied", "low-rank"))


@pytest.fixture(scope="module")
def digits():
    return PCA(8).fit_transform(load_digits().data)[:1500]


def fit(x, k=5, **options):
    return run_em(jax.random.key(0), jnp.asarray(x), k=k, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", SKLEARN)
def test_twenty_iterations_equal_those_of_scikit_learn(family, digits):
    start = fit(digits, covariance_type=family, max_iter=1).gmm
    shape = SKLEARN[family]
    theirs = fit_by_sklearn(start, family, digits, 20)
    ours = fit(digits, start=start, max_iter=20, tol=0.0, chunk_size=400)
    np.testing.assert_allclose(np.exp(ours.gmm.log_weights), theirs.weights_, rtol=1e-8)
    np.testing.assert_allclose(ours.gmm.means, theirs.means_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(shape(dense(ours.gmm)), theirs.covariances_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.history[-1], theirs.lower_bound_, rtol=1e-10)


@families
@pytest.mark.parametrize("strength", [pytest.param(0.0, marks=pytest.mark.slow), 10.0])
def test_the_objective_never_falls(family, strength, digits):
    state = fit(
        digits.astype(np.float32),
        covariance_type=family,
        max_iter=30,
        tol=0.0,
        prior=Prior(strength=strength, variance=float(digits.var())),
        floor=Floor(absolute=0.0),
        init="random",
    )
    assert np.diff(state.history).min() > -1e-4
    assert state.history[-1] - state.history[0] > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", few(["full", "diag", "tied"], "tied"))
def test_chunks_do_not_change_the_statistics(family, digits):
    x = jnp.asarray(digits)
    gmm = fit(x, covariance_type=family, max_iter=1).gmm
    whole, parts = e_step(gmm, RowsInMemory(x)), e_step(gmm, RowsInMemory(x, asked=470))
    assert float(whole.log_likelihood) == pytest.approx(float(parts.log_likelihood), rel=1e-12)
    np.testing.assert_allclose(parts.counts, whole.counts, rtol=1e-10)
    np.testing.assert_allclose(parts.first, whole.first, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(parts.second, whole.second, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", [family for family in COVARIANCES if "low-rank" not in family])
def test_one_component_is_the_sample_mean_and_covariance(family, digits):
    gmm = fit(digits, k=1, covariance_type=family, floor=Floor(absolute=0.0), max_iter=3).gmm
    np.testing.assert_allclose(gmm.means[0], digits.mean(axis=0), atol=1e-9)
    cov = np.cov(digits.T, bias=True)
    expected = {"full": cov, "diag": np.diag(np.diag(cov)), "spherical": np.eye(8) * np.diag(cov).mean()}
    name = family.removeprefix("tied-").replace("tied", "full")
    np.testing.assert_allclose(dense(gmm)[0], expected[name], rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_prior_counts_as_observations(digits):
    n, nu, v = len(digits), 50.0, 3.0
    gmm = fit(
        digits, k=1, covariance_type="full", prior=Prior(strength=nu, variance=v), floor=Floor(absolute=0.0), max_iter=2
    ).gmm
    expected = (n * np.cov(digits.T, bias=True) + nu * v * np.eye(8)) / (n + nu)
    np.testing.assert_allclose(dense(gmm)[0], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", ["diag", "full", "tied"])
def test_float32_far_from_the_origin(family, rng):
    """Data at 1000 with standard deviation 1: E[x²] − E[x]² would be off by tenths."""
    x = (rng.normal(size=(4000, 3)) + 1000).astype(np.float32)
    gmm = fit(x, k=1, covariance_type=family, floor=Floor(absolute=0.0), max_iter=3).gmm
    np.testing.assert_allclose(gmm.covariance.variance()[0], x.astype(np.float64).var(axis=0), rtol=1e-5)


def test_float32_reaches_the_likelihood_of_float64(digits):
    x = digits.astype(np.float32)
    start = fit(x, covariance_type="full", max_iter=1).gmm
    single = fit(x, start=start, max_iter=20, tol=0.0).gmm
    reported = float(single.log_prob(jnp.asarray(x)).mean())
    jax.config.update("jax_enable_x64", True)
    try:
        start, single = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), g) for g in (start, single))
        double = fit(digits, start=start, max_iter=20, tol=0.0).gmm
        of_single, of_double = (float(g.log_prob(jnp.asarray(digits)).mean()) for g in (single, double))
    finally:
        jax.config.update("jax_enable_x64", False)
    assert reported == pytest.approx(of_single, rel=1e-5)
    assert of_single == pytest.approx(of_double, rel=1e-4)


@pytest.mark.parametrize("init", INITIALIZERS)
def test_every_initializer_finds_separate_clusters(init, rng):
    centers = np.array([[0, 0], [20, 0], [0, 20], [20, 20]])
    labels = np.arange(800) % 4
    x = (centers[labels] + rng.normal(size=(800, 2))).astype(np.float32)
    state = fit(x, k=4, init=init, n_init=6, max_iter=60)
    found = np.asarray(state.gmm.means)
    distance = np.linalg.norm(found[:, None] - centers[None], axis=2).min(axis=0)
    assert distance.max() < 0.3


def test_restarts_keep_the_best(digits):
    x = digits.astype(np.float32)
    seen = []
    best = fit(x, init="random", n_init=4, max_iter=8, callback=seen.append)
    ends = [s.history[-1] for s in seen if len(s.history) == 8 or s.converged]
    assert len(ends) == 4
    assert best.history[-1] == max(ends)


def test_going_on_from_any_state_gives_the_same_bits(digits):
    x, seen = digits.astype(np.float32), []
    options = {"init": "random", "n_init": 2, "max_iter": 6, "tol": 0.0}
    whole = fit(x, **options, callback=seen.append)
    assert len(seen) == 2 * 7
    for state in seen[::3]:
        resumed = fit(x, **options, state=state)
        for a, b in zip(jax.tree.leaves(whole.gmm), jax.tree.leaves(resumed.gmm), strict=True):
            np.testing.assert_array_equal(a, b)
        assert whole.history == resumed.history


def test_a_dead_component_is_moved_to_the_rows_explained_worst(rng):
    """A component far from all data explains none of them; a cluster nobody covers takes it over."""
    x = rng.normal(size=(600, 2)).astype(np.float32)
    x[:100] += 30
    means = jnp.asarray([[0.0, 0.0], [1e4, 1e4]], jnp.float32)
    start = GMM(jnp.log(jnp.array([0.5, 0.5])), means, identity_of("diag")(2, 2))
    state = fit(x, k=2, start=start, max_iter=50)
    assert state.revived >= 1
    np.testing.assert_allclose(sorted(np.exp(state.gmm.log_weights)), [1 / 6, 5 / 6], atol=1e-3)
    assert np.diff(state.history).min() > -1e-4


def test_another_family_takes_over_the_responsibilities(digits):
    x = jnp.asarray(digits, jnp.float32)
    gmm = fit(x, covariance_type="diag", max_iter=10).gmm
    arrays = as_arrays(None, None, x.dtype)
    full = in_family(gmm, RowsInMemory(x, asked=400), *arrays, identity=identity_of("full"))
    r = np.asarray(gmm.responsibilities(x), np.float64)
    np.testing.assert_allclose(np.exp(full.log_weights), r.mean(axis=0), rtol=1e-4)
    mean = (r.T @ digits) / r.sum(axis=0)[:, None]
    np.testing.assert_allclose(full.means, mean, rtol=1e-3, atol=1e-3)
    off = digits[:, None] - mean[None]
    cov = np.einsum("nk,nkd,nke->kde", r, off, off) / r.sum(axis=0)[:, None, None]
    np.testing.assert_allclose(dense(full), cov, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x: x.at[3, 1].set(jnp.nan), {}, "NaN or infinite"),
        (lambda x: x.at[3, 1].set(jnp.inf), {}, "NaN or infinite"),
        (lambda x: x[:4], {}, "4 rows are too few for k=5"),
        (lambda x: x, {"k": 0}, "k must be at least 1, got 0"),
        (lambda x: x[0], {}, r"shape \(n, d\), got \(8,\)"),
        (lambda x: x[:, :0], {}, r"shape \(n, d\), got \(1500, 0\)"),
        (lambda x: x.astype(complex), {}, "x must be numbers, got complex64"),
        (lambda x: [["a", "b"]], {}, "x must be numbers"),
        (lambda x: x, {"k": 2.5}, "k must be a whole number, got 2.5"),
        (lambda x: x, {"key": "seed"}, "key must be a JAX key"),
        (lambda x: x, {"key": -1}, "key must be from 0"),
        (lambda x: x, {"prior": 1.0}, "prior must be a jgmm.Prior"),
        (lambda x: x, {"encoder": "whiten"}, "unknown encoder 'whiten'"),
        (lambda x: x, {"init": lambda key, x, k, metric: x[:2]}, r"centers of shape \(5, 8\)"),
        (lambda x: x, {"covariance_type": "dia"}, "unknown covariance type 'dia'. Did you mean 'diag'"),
        (lambda x: x, {"init": "kmean"}, "Did you mean 'kmeans'"),
        (lambda x: x, {"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_input_is_refused(change, options, message, digits):
    x = change(jnp.asarray(digits, jnp.float32))
    # Types are checked by the type checker too, under the tests alone; here by the function itself.
    options = {"key": jax.random.key(0), "k": 5} | options
    with pytest.raises(InputError, match=message):
        jgmm.fit_em.__wrapped__(options.pop("key"), x, **options)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_fewer_rows_than_features_stay_positive_definite_in_float32(strength, rng):
    x = rng.normal(size=(20, 30)).astype(np.float32)
    state = fit(x, k=2, covariance_type="full", prior=Prior(strength=strength), floor=Floor(absolute=0.0))
    assert np.isfinite(state.history).all()
    assert np.isfinite(np.linalg.cholesky(dense(state.gmm).astype(np.float64))).all()


def test_a_likelihood_that_is_not_finite_is_said(rng):
    with pytest.raises(InputError, match="not finite.*float32.*rescale"):
        fit((rng.normal(size=(50, 3)) * 1e25).astype(np.float32), k=2)


def test_a_start_of_another_size_is_refused(rng, digits):
    start = random_mixture(rng, "diag", dtype="float32")
    with pytest.raises(InputError, match="k=3 and d=4, the fit k=5 and d=8"):
        fit(digits.astype(np.float32), start=start)

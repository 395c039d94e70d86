"""EM without the pairs that do not matter gives what EM with all of them gives."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, distances
from sklearn.datasets import load_digits

from jgmm.checkpoint.interrupted import InterruptedFit
from jgmm.checkpoint.journal import Mark
from jgmm.covariance.full import SCREENED_COMPONENTS, SCREENED_FEATURES, Full
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.loop import run_em
from jgmm.em.rows import RowsInMemory
from jgmm.em.screening import negligible, no_bounds
from jgmm.em.statistics import collect
from jgmm.em.steps import em_step, m_step
from jgmm.registry import COVARIANCES

# Low-rank families have no sums over pairs.
OTHERS = [name for name in COVARIANCES if name not in ("full", "diag", "tied") and "low-rank" not in name]
K, D, N = SCREENED_COMPONENTS + 2, SCREENED_FEATURES, 3000


@pytest.fixture(scope="module")
def data():
    """Clusters that overlap: at first rows have several components that matter, later one or two."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(K, D, D)) / np.sqrt(D) + np.eye(D)
    centers = 0.4 * rng.normal(size=(K, D))
    label = rng.integers(0, K, N)
    return centers[label] + np.einsum("nij,nj->ni", mixing[label], rng.normal(size=(N, D)))


def fit(x, max_iter, **options):
    prior = Prior(strength=20.0)
    return run_em(
        jax.random.key(0),
        jnp.asarray(x),
        k=K,
        covariance_type="full",
        prior=prior,
        max_iter=max_iter,
        tol=0.0,
        **options,
    )


def iterate(gmm, x, iterations, bounds):
    prior, floor = as_arrays(Prior(strength=20.0), None, x.dtype)
    steps = []
    for _ in range(iterations):
        steps.append(em_step(gmm, RowsInMemory(x, asked=1100), prior, floor, bounds))
        gmm, bounds = steps[-1].gmm, steps[-1].bounds
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_screened_iterations_equal_unscreened_ones(dtype, data):
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        x = jnp.asarray(data, dtype)
        start = fit(x, 1).gmm
        screened = iterate(start, x, 6, no_bounds(start, RowsInMemory(x)))
        plain = iterate(start, x, 6, None)
        tight = 1e-4 if dtype == "float32" else 1e-11
        for ours, theirs in zip(screened, plain, strict=True):
            assert float(ours.log_likelihood) == pytest.approx(float(theirs.log_likelihood), rel=tight / 100)
            np.testing.assert_allclose(ours.counts, theirs.counts, rtol=tight)
            assert float(ours.dropped) <= K * N * negligible(K, x.dtype)
        np.testing.assert_allclose(dense(screened[-1].gmm), dense(plain[-1].gmm), rtol=10 * tight, atol=10 * tight)
        last = screened[-1]
        true = np.sqrt(distances(last.gmm.covariance, last.gmm.means, x)).T
        assert (np.asarray(last.bounds) <= true).all()
        # Pairs that were left out have looser bounds than if everything had been computed.
        all_computed = iterate(screened[-2].gmm, x, 1, no_bounds(start, RowsInMemory(x)))[0].bounds
        assert (last.bounds < all_computed).mean() > 0.1
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("change", [0.01, 0.3, 3.0])
def test_drift_bounds_every_direction(change, rng):
    d = 6

    def covariance(scale, of):
        a = of + scale * rng.normal(size=(d, d))
        return a @ a.T

    root = rng.normal(size=(d, d)) + 2 * np.eye(d)
    old, new = covariance(0, root), covariance(change, root)
    means, to_means = rng.normal(size=(1, d)), rng.normal(size=(1, d))
    a, b = (Full.from_dense(jnp.asarray(c)[None]) for c in (old, new))
    scale, moved = a.distances(jnp.asarray(means)).drift(b, jnp.asarray(to_means))
    # The direction that shrinks most, and many others.
    least = np.linalg.svd(np.linalg.solve(np.asarray(b.cholesky[0]), np.asarray(a.cholesky[0])))[2][-1]
    y = np.concatenate([least[None], rng.normal(size=(500, d))])
    x = jnp.asarray(means + 50 * y @ np.asarray(a.cholesky[0]).T)
    before = np.sqrt(distances(a, jnp.asarray(means), x))[:, 0]
    after = np.sqrt(distances(b, jnp.asarray(to_means), x))[:, 0]
    assert (after >= float(scale[0]) * before - float(moved[0])).all()
    tightest = np.linalg.svd(np.linalg.solve(np.asarray(b.cholesky[0]), np.asarray(a.cholesky[0])))[1][-1]
    assert 0.5 * tightest < float(scale[0]) <= tightest


@pytest.mark.parametrize("family", ["full", "diag", "tied", *(pytest.param(f, marks=pytest.mark.slow) for f in OTHERS)])
def test_sums_over_pairs_equal_sums_over_all(family):
    x = load_digits().data[:1200, 10:22].astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 12, 1200)
    labels[labels == 7] = 8  # a component without rows
    prior, floor = as_arrays(Prior(strength=1.0, variance=2.0), Floor(absolute=0.0), jnp.float32)

    @jax.jit
    def m_step_of_labels(blank, x, labels):
        r, zero = jax.nn.one_hot(labels, 12, dtype=x.dtype), jnp.zeros(())
        return m_step(blank, collect(blank, x, r, jnp.zeros(1200), zero), prior, floor)

    gmm = m_step_of_labels(fit_of_family(family, x), jnp.asarray(x), jnp.asarray(labels))
    counts = np.bincount(labels, minlength=12)
    groups = [x[labels == k].astype(np.float64) for k in range(12)]
    scatter = np.array([(g - g.mean(0)).T @ (g - g.mean(0)) if len(g) else np.zeros((12, 12)) for g in groups])
    expected = {
        "full": lambda s, n: (s + 2 * np.eye(12)) / (n + 1),
        "diag": lambda s, n: np.diag((np.diag(s) + 2) / (n + 1)),
        "spherical": lambda s, n: np.eye(12) * (np.trace(s) / 12 + 2) / (n + 1),
    }
    form = expected[family.removeprefix("tied-").replace("tied", "full")]
    if family.startswith("tied"):
        wanted = np.tile(form(scatter.sum(0), len(x)), (12, 1, 1))
    else:
        wanted = np.array([form(s, n) for s, n in zip(scatter, counts, strict=True)])
    np.testing.assert_allclose(dense(gmm), wanted, rtol=2e-4, atol=2e-4)
    present = counts > 0
    np.testing.assert_allclose(gmm.means[present], [g.mean(0) for g in groups if len(g)], rtol=1e-5, atol=1e-5)


def fit_of_family(family, x):
    gmm = run_em(jax.random.key(0), jnp.asarray(x), k=12, covariance_type=family, max_iter=1).gmm
    return replace(gmm, means=jnp.broadcast_to(x.mean(0)[None], gmm.means.shape))


@pytest.mark.slow
def test_bounds_survive_a_kill(tmp_path, data):
    """They decide what is computed, so a resumed fit needs the same ones to end with the same bits."""
    x = data.astype(np.float32)
    states = []
    whole = fit(x, 6, callback=states.append)
    progress = InterruptedFit(tmp_path)
    progress.save(states[3], Mark())
    kept, _ = InterruptedFit(tmp_path).load(K, x.shape, "full", jnp.float32, Prior())
    np.testing.assert_array_equal(kept.bounds, states[3].bounds)
    resumed = fit(x, 6, state=kept)
    for a, b in zip(jax.tree.leaves(resumed.gmm), jax.tree.leaves(whole.gmm), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.history == whole.history

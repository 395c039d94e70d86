"""Low-rank covariances: EM of factor analyzers against scikit-learn, and arithmetic that never makes a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.decomposition import FactorAnalysis

import jgmm
from jgmm.covariance.lowrank import LowRank
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import em_step
from jgmm.errors import InputError
from jgmm.mixture import GMM

K, D, R, N = 2, 6, 2, 3000
NO_FLOOR = Floor(absolute=0.0, relative=0.0)


def factor_rows(tied=False, n=N):
    """Rows of a factor model about two means, which of them each is about, and the means."""
    rng = np.random.default_rng(0)
    factors, noise = 2 * rng.normal(size=(K, D, R)), rng.uniform(0.3, 1.5, (K, D))
    if tied:
        factors[1], noise[1] = factors[0], noise[0]
    means, label = 4 * rng.normal(size=(K, D)), rng.integers(K, size=n)
    x = np.einsum("ndr,nr->nd", factors[label], rng.normal(size=(n, R))) + np.sqrt(noise[label]) * rng.normal(
        size=(n, D)
    )
    return means[label] + x, label, means


@pytest.mark.usefixtures("x64")
def test_em_of_one_component_is_scikit_learns_factor_analysis():
    x, label, _ = factor_rows()
    x = x[label == 0]
    expected = FactorAnalysis(R, tol=1e-10, max_iter=10_000, svd_method="lapack").fit(x)
    fit = jgmm.fit_em(
        0, x, 1, covariance_type=jgmm.low_rank(R), encoder="identity", floor=NO_FLOOR, tol=1e-12, max_iter=5000
    )
    assert fit.gmm.log_prob(x).mean() == pytest.approx(expected.score(x), abs=1e-7)
    np.testing.assert_allclose(fit.gmm.covariance.dense()[0], expected.get_covariance(), atol=1e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_em_raises_the_posterior_until_its_gradient_is_zero(tied):
    x, label, means = factor_rows(tied)
    rows, prior = RowsInMemory(jnp.asarray(x)), Prior(strength=3.0, variance=jnp.linspace(0.5, 2.0, D))
    covariance = jgmm.low_rank(R, tied)(K, D, jnp.float64)
    gmm = GMM(jnp.log(jnp.full(K, 0.5)), jnp.asarray(means), covariance)

    def objective(covariance, gmm):
        inverse = covariance.inverse_diagonal()
        penalty = covariance.log_det() + (prior.variances(*inverse.shape) * inverse).sum(axis=1)
        return GMM(gmm.log_weights, gmm.means, covariance).log_prob(x).sum() - 0.5 * 3.0 * penalty.sum()

    values = []
    for _ in range(300):
        step = em_step(gmm, rows, prior, NO_FLOOR)
        values.append(float(step.log_likelihood) + float(step.log_prior))
        gmm = step.gmm
    assert np.diff(values).min() > -1e-8
    slopes = jax.tree.leaves(jax.jit(jax.grad(objective))(gmm.covariance, gmm))
    assert max(float(jnp.abs(slope).max()) for slope in slopes) < 1e-2
    assert (np.asarray(gmm.predict(x)) == label).mean() > 0.99


@pytest.mark.usefixtures("x64")
def test_slopes_are_finite_where_factors_have_one_length():
    """The square root of I + U Uᵀ has a derivative there, its eigenvectors do not."""
    covariance = LowRank(jnp.eye(4)[None, :, :2], jnp.ones((1, 4)))
    y = jnp.arange(1.0, 5.0)[None]
    slope = jax.grad(lambda c: (c.whiten(y) ** 2).sum())(covariance)
    expected = jax.grad(lambda c: c.squared_mahalanobis(jnp.zeros((1, 4)))(y).sum())(covariance)
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    noise = jnp.ones((1, 4))
    drawn = jax.grad(lambda c: (c.color(jnp.zeros(1, int), noise) ** 2).sum())(covariance)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(drawn))


def test_digits_are_kept_where_factors_are_long_and_means_far_away():
    rng = np.random.default_rng(0)
    factors, noise = 3e3 * rng.normal(size=(3, 8, 2)), rng.uniform(0.5, 1.0, (3, 8))
    means = np.array([[0.0] * 8, [1e5] * 8, [-3e4] * 8])
    single = LowRank(jnp.asarray(factors, np.float32), jnp.asarray(noise, np.float32))
    x = (means[:, None] + np.einsum("kdr,nr->knd", factors, rng.normal(size=(4, 2)))).reshape(-1, 8).astype(np.float32)
    found = np.asarray(single.squared_mahalanobis(jnp.asarray(means, np.float32))(jnp.asarray(x)))
    off = x.astype(np.float64)[:, None] - means.astype(np.float32)
    inverse = np.linalg.inv(np.asarray(factors @ factors.swapaxes(1, 2) + noise[:, :, None] * np.eye(8)))
    expected = np.einsum("nkd,kde,nke->nk", off, inverse, off)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.05)


def test_distances_keep_their_digits_where_means_are_far_apart():
    """Factors of the size of the noise: what cancels is the distance between means."""
    rng = np.random.default_rng(0)
    factors, noise = rng.normal(size=(2, 8, 1)).astype(np.float32), rng.uniform(0.5, 1, (2, 8)).astype(np.float32)
    means = np.array([[0.0] * 8, [3e4] * 8], np.float32)
    x = (means[:, None] + rng.normal(size=(2, 20, 8))).reshape(-1, 8).astype(np.float32)
    found = LowRank(jnp.asarray(factors), jnp.asarray(noise)).squared_mahalanobis(jnp.asarray(means))(jnp.asarray(x))
    inverse = np.linalg.inv(np.einsum("kdr,ker->kde", factors, factors) + noise[:, :, None] * np.eye(8))
    off = x.astype(np.float64)[:, None] - means
    expected = np.einsum("nkd,kde,nke->nk", off, inverse, off)
    near = np.repeat([0, 1], 20)
    np.testing.assert_allclose(np.asarray(found)[range(40), near], expected[range(40), near], rtol=1e-4)


@pytest.mark.slow
def test_a_rank_is_part_of_the_family(tmp_path):
    """A start of another rank is refitted, and networks of another than the default one are saved with it."""
    x = np.random.default_rng(0).normal(size=(100, 9)) @ np.random.default_rng(1).normal(size=(9, 9))
    start = jgmm.fit_em(0, x, 2, covariance_type=jgmm.low_rank(3), max_iter=2).gmm
    fit = jgmm.fit_em(0, x, covariance_type=jgmm.low_rank(1), start=start, max_iter=2)
    assert fit.gmm.covariance.factors.shape == (2, 9, 1)
    assert jgmm.fit_em(0, x, start=start, max_iter=2).gmm.covariance.factors.shape == (2, 9, 3)
    assert np.isfinite(jgmm.fit_gradient(jax.random.key(0), fit.gmm, x, epochs=1).model.log_prob(x)).all()
    model = jgmm.ConditionalGMM(9, 2, 2, jgmm.low_rank(1), rngs=nnx.Rngs(0))
    jgmm.save(tmp_path / "model", model)
    again = jgmm.load(tmp_path / "model")
    np.testing.assert_array_equal(again(jnp.ones(2)).log_prob(x[:3]), model(jnp.ones(2)).log_prob(x[:3]))
    with pytest.raises(InputError, match="scikit-learn's form"):
        jgmm.GMM.from_parameters([1.0], [[0.0]], [[[1.0]]], jgmm.low_rank(1, tied=True))
    assert start.marginal([0]).n_parameters == 1 + 2 + 2


@pytest.mark.slow
def test_digits_are_better_explained_than_by_variances_alone(tmp_path):
    x = load_digits().data + np.random.default_rng(0).uniform(size=(1797, 64))
    train, held_out = x[:1400], x[1400:]
    options = {"prior": jgmm.Prior(strength=5.0), "max_iter": 200}
    diag = jgmm.fit_em(0, train, 5, covariance_type="diag", **options)
    fit = jgmm.fit_em(0, train, 5, covariance_type=jgmm.low_rank(5), **options)
    assert fit.gmm.log_prob(held_out).mean() > diag.gmm.log_prob(held_out).mean() + 5
    # A turn of the factors changes nothing: it is no parameter.
    assert fit.gmm.n_parameters == 4 + 5 * 64 + 5 * (64 * 6 - 10)
    jgmm.save(tmp_path / "model", fit.gmm)
    assert jgmm.load(tmp_path / "model").covariance.factors.shape == (5, 64, 5)
    for rank in (0, 1.5, "8"):
        with pytest.raises(InputError, match="rank"):
            jgmm.low_rank(rank)


def test_no_array_is_as_large_as_a_matrix_of_the_features():
    d = 512
    gmm = GMM(jnp.zeros(4) - jnp.log(4), jnp.zeros((4, d)), LowRank.identity(4, d, jnp.float32))
    rows = RowsInMemory(jnp.zeros((256, d)))
    text = jax.jit(lambda gmm, rows: em_step(gmm, rows, Prior(), NO_FLOOR).gmm).lower(gmm, rows).as_text()
    assert f"{d}x{d}" not in text

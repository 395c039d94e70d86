"""Gaussians at several scales: one step against its formulas, EM at one scale, and data that have scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jgmm
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.rows import RowsInMemory
from jgmm.em.scales import ScaledGMM, scaled_step, with_scales
from jgmm.em.steps import em_step
from jgmm.errors import InputError

K, D, N = 3, 2, 400
NO_FLOOR = Floor(absolute=0.0, relative=0.0)


def random_gmm(family, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(K, D, D))
    covariance = {
        "full": a @ a.swapaxes(1, 2) + 0.3 * np.eye(D),
        "diag": rng.uniform(0.5, 2, (K, D)),
        "spherical": rng.uniform(0.5, 2, K),
    }
    return jgmm.GMM.from_parameters(
        np.full(K, 1 / K), [[-6.0, 0.0], [6.0, 0.0], [4.0, 1.0]], covariance[family], family
    )


def heavy_tails(n, seed=0):
    """Rows of two Gaussians of random scales."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.8 * rng.normal(size=(n, 1)))
    return rng.choice([-6.0, 6.0], (n, 1)) + scale * rng.normal(size=(n, D)) * [1.0, 0.3]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_the_mixture_of_all_components_has_the_density_of_the_scales(family):
    mixture = ScaledGMM.of(random_gmm(family), 4)
    x = jax.random.normal(jax.random.key(0), (9, D))
    together = jax.nn.logsumexp(mixture.log_joint()(x), axis=(1, 2))
    np.testing.assert_allclose(mixture.mixture().log_prob(x), together, rtol=1e-12)
    np.testing.assert_allclose(mixture.mixture().means[:4], jnp.broadcast_to(mixture.shapes.means[:1], (4, D)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prior", [Prior(), Prior(strength=5.0, mean_strength=2.0, mean=0.5)], ids=["none", "prior"])
@pytest.mark.parametrize("family", ["full", pytest.param("diag", marks=pytest.mark.slow)])
def test_one_scale_is_em(family, prior):
    rows, gmm = RowsInMemory(jnp.asarray(heavy_tails(N))), random_gmm(family)
    one, log_likelihood, penalty = scaled_step(ScaledGMM.of(gmm, 1), rows, prior, NO_FLOOR, with_prior=True)
    step = em_step(gmm, rows, prior, NO_FLOOR)
    assert float(log_likelihood) == pytest.approx(float(step.log_likelihood), rel=1e-12)
    assert float(penalty) == pytest.approx(float(step.log_prior), rel=1e-12)
    for found, expected in zip(jax.tree.leaves(one.shapes), jax.tree.leaves(step.gmm), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_step_is_that_of_its_formulas():
    x, mixture = heavy_tails(N), ScaledGMM.of(random_gmm("full"), 3)
    new, _, _ = scaled_step(mixture, RowsInMemory(jnp.asarray(x)), Prior(), NO_FLOOR, with_prior=False)
    r = np.asarray(mixture.mixture().responsibilities(x)).reshape(N, K, 3)
    a = (r / np.asarray(mixture.scales)).sum(axis=2)
    means = np.einsum("nk,nd->kd", a, x) / a.sum(axis=0)[:, None]
    y = x[:, None] - means
    covariances = np.einsum("nk,nki,nkj->kij", a, y, y) / r.sum(axis=(0, 2))[:, None, None]
    np.testing.assert_allclose(new.shapes.means, means, rtol=1e-8)
    np.testing.assert_allclose(new.shapes.covariance.dense(), covariances, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.exp(new.log_weights), r.sum(axis=0) / r.sum(axis=(0, 2))[:, None], atol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prior", [Prior(), Prior(strength=20.0, mean_strength=4.0)], ids=["none", "prior"])
def test_the_objective_never_falls(prior):
    x = jnp.asarray(heavy_tails(N))
    _, history, converged = with_scales(
        random_gmm("full"), RowsInMemory(x), 3, prior, NO_FLOOR, max_iter=1000, tol=1e-6
    )
    assert converged
    assert np.diff(history).min() > -1e-6


def test_scales_explain_tails_that_gaussians_do_not():
    train, held_out = heavy_tails(4000), heavy_tails(4000, 1)
    plain = jgmm.fit_em(0, train, 2, covariance_type="full")
    scaled = jgmm.fit_em(0, train, 2, covariance_type="full", scales=4)
    assert scaled.gmm.k == 8
    assert len(scaled.history) > len(plain.history)
    assert scaled.gmm.log_prob(held_out).mean() > plain.gmm.log_prob(held_out).mean() + 0.1
    assert scaled.gmm.log_prob(train).mean() == pytest.approx(scaled.history[-1], abs=1e-3)
    for k in (1, 2):
        with pytest.raises(InputError, match="covariances of their own"):
            jgmm.fit_em(0, train, k, covariance_type="tied", scales=2)
    with pytest.raises(InputError, match="scales"):
        jgmm.fit_em(0, train, 2, scales=0)


@pytest.mark.slow
def test_blocks_of_a_product_have_them_too():
    x = np.concatenate([heavy_tails(500), heavy_tails(500, 1)], axis=1)
    fit = jgmm.fit_product(0, x, k=2, blocks=2, shared=True, scales=3, classes=2)
    assert fit.mixture.k == 6

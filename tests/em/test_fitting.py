"""`jgmm.fit_em`: any table, in any units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, few
from sklearn.datasets import load_iris

import jgmm
from jgmm.encoder.pca import fit_pca
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES

EQUIVARIANT = [name for name in COVARIANCES if "spherical" not in name]


@pytest.fixture
def clusters(rng):
    centers = np.array([[0, 0, 0], [6, 0, 3], [0, 8, -4]])
    return centers[np.arange(900) % 3] + rng.normal(size=(900, 3))


@pytest.mark.parametrize("family", few(EQUIVARIANT, "full", "tied-spherical", "diag"))
def test_units_of_features_do_not_matter(family, clusters):
    """Features of scale 1e-6, 1 and 1e4, off the origin: the same mixture in other units."""
    scale, shift = np.array([1e-6, 1.0, 1e4]), np.array([1e-6, -3.0, 1e4])
    plain = jgmm.fit_em(0, clusters, k=3, covariance_type=family)
    turned = jgmm.fit_em(0, clusters * scale + shift, k=3, covariance_type=family)
    np.testing.assert_allclose((np.asarray(turned.gmm.means) - shift) / scale, plain.gmm.means, atol=2e-3)
    np.testing.assert_allclose(dense(turned.gmm) / scale[:, None] / scale, dense(plain.gmm), rtol=5e-3, atol=5e-3)
    assert turned.history[-1] == pytest.approx(plain.history[-1] - np.log(scale).sum(), abs=1e-3)


@pytest.mark.parametrize("family", few(COVARIANCES, "full", "diag", "tied-spherical"))
def test_an_outlier_of_a_million_is_fitted_in_float32(family, clusters):
    x = np.concatenate([clusters, [[1e6, 1e6, 1e6]]])
    fit = jgmm.fit_em(0, x, k=4, covariance_type=family)
    assert fit.gmm.means.dtype == jnp.float32
    assert np.isfinite(fit.gmm.log_prob(x)).all()
    # The clusters are found as if the outlier were not there, which has a component of its own.
    centers = np.array([clusters[i::3].mean(axis=0) for i in range(3)])
    near = np.abs(np.asarray(fit.gmm.means)[None] - centers[:, None]).max(axis=2).min(axis=1)
    assert near.max() < 0.2


@pytest.mark.parametrize("family", ["spherical", "tied-spherical"])
def test_spherical_families_keep_one_unit_for_all_features(family, clusters):
    fit = jgmm.fit_em(0, 1e-6 * clusters, k=3, covariance_type=family)
    np.testing.assert_allclose(np.sort(fit.gmm.means[:, 0]) * 1e6, [0, 0, 6], atol=0.3)
    np.testing.assert_allclose(dense(fit.gmm)[0], 1e-12 * np.eye(3), atol=2e-13)


def test_the_history_is_that_of_the_data(clusters):
    fit = jgmm.fit_em(0, clusters, k=3, covariance_type="full", tol=1e-7, max_iter=300)
    assert fit.converged
    assert fit.n_iter == len(fit.history)
    assert fit.history[-1] == pytest.approx(float(fit.gmm.log_prob(clusters).mean()), abs=1e-4)
    assert repr(fit).startswith("EMFit(GMM(k=3, d=3, covariance='full', dtype=float32), objective=")
    assert len(repr(fit)) < 150


def test_lists_integers_and_seeds_are_taken(clusters):
    whole = np.round(clusters).astype(int)
    by_list = jgmm.fit_em(3, whole.tolist(), k=2, max_iter=4)
    by_array = jgmm.fit_em(jax.random.key(3), jnp.asarray(whole, jnp.float32), k=2, max_iter=4)
    by_old_key = jgmm.fit_em(jax.random.PRNGKey(3), whole, k=2, max_iter=4)
    np.testing.assert_array_equal(by_list.gmm.means, by_array.gmm.means)
    np.testing.assert_array_equal(by_list.gmm.means, by_old_key.gmm.means)


def test_constant_features_stay_where_they_are(clusters):
    value = 0.1257302210933933  # rounding gives 900 of it a deviation of 1e-15
    x = np.column_stack([clusters, np.full(900, value)])
    fit = jgmm.fit_em(0, x, k=3, covariance_type="full")
    np.testing.assert_allclose(fit.gmm.means[:, 3], value, rtol=1e-5)
    assert np.isfinite(fit.gmm.log_prob(x)).all()


def test_a_start_brings_its_family_unless_another_is_asked_for(clusters):
    start = jgmm.fit_em(0, clusters, k=3, covariance_type="tied-diag", max_iter=2).gmm
    assert jgmm.fit_em(0, clusters, start=start).gmm.covariance.name == "tied-diag"
    full = jgmm.fit_em(0, clusters, start=start, covariance_type="full")
    again = jgmm.fit_em(1, clusters, start=full.gmm)
    assert full.gmm.covariance.name == again.gmm.covariance.name == "full"
    assert again.history[0] >= full.history[-1] - 1e-4
    with pytest.raises(InputError, match="has k=3, the fit k=4"):
        jgmm.fit_em(0, clusters, k=4, start=start)
    with pytest.raises(InputError, match="k=3 and d=3, the data d=2"):
        jgmm.fit_em(0, clusters[:, :2], start=start)
    with pytest.raises(InputError, match="cannot be turned into codes of 'pca'"):
        jgmm.fit_em(0, clusters, start=start, encoder="pca")


@pytest.mark.parametrize("encoder", ["pca", "zca"])
def test_other_encoders_leave_their_codes(encoder, clusters):
    fit = jgmm.fit_em(0, clusters, k=3, covariance_type="full", encoder=encoder)
    assert fit.encoder.name == encoder
    source = jgmm.unnormalized(fit.gmm, fit.encoder, (3,))
    plain = jgmm.fit_em(0, clusters, k=3, covariance_type="full")
    assert float(source.log_prob(np.float32(clusters)).mean()) == pytest.approx(plain.history[-1], abs=5e-3)
    assert fit.history[-1] == pytest.approx(plain.history[-1], abs=5e-3)


@pytest.mark.usefixtures("x64")
def test_float64_stays_float64_and_ten_components_are_the_default():
    fit = jgmm.fit_em(0, load_iris().data, max_iter=1)
    assert fit.gmm.k == 10
    assert fit.gmm.means.dtype == jnp.float64


def test_directions_that_are_no_codes_count_in_the_history(clusters):
    pca, _ = fit_pca(clusters, 2)
    fit = jgmm.fit_em(0, clusters, k=3, encoder=pca, tol=1e-7, max_iter=300)
    source = jgmm.unnormalized(fit.gmm, fit.encoder, (3,))
    assert fit.history[-1] == pytest.approx(float(source.log_prob(np.float32(clusters)).mean()), abs=1e-3)


def test_a_start_of_another_family_keeps_its_covariances(rng):
    """Features of scales 1 and 100: units of their own would not leave a spherical start spherical."""
    x = rng.normal(size=(300, 2)) * [1, 100]
    start = jgmm.GMM.from_parameters([0.5, 0.5], [[-1.0, -50.0], [1.0, 50.0]], [900.0, 900.0], "spherical")
    fit = jgmm.fit_em(0, x, covariance_type="full", start=start, max_iter=5)
    assert fit.gmm.covariance.name == "full"
    assert fit.history[-1] > start.log_prob(x).mean()
    by_hand = jgmm.fit_em(0, x, covariance_type="full", start=start, max_iter=5, encoder="identity")
    # The floor is in units of the pooled spread there, and in those of x here.
    np.testing.assert_allclose(fit.gmm.log_prob(x), by_hand.gmm.log_prob(x), rtol=1e-2)

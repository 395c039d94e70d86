"""`jgmm.GaussianMixture` against scikit-learn's, from the same starts."""

import pickle

import numpy as np
import pytest
from helpers import few
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as Reference
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import jgmm
from jgmm.em import engines
from jgmm.registry import COVARIANCES

FAMILIES = ["full", "tied", "diag", "spherical"]
ATTRIBUTES = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bounds_"]
# Fits of few components, of data that have them.
TABLES = {
    "iris": (lambda: load_iris().data, 3),
    "wine": (lambda: load_wine().data, 3),
    "breast cancer": (lambda: load_breast_cancer().data, 2),
    "digits": (lambda: PCA(20, random_state=0).fit_transform(load_digits().data), 10),
}


@pytest.fixture
def compiled(monkeypatch):
    """No table is small."""
    monkeypatch.setattr(engines, "small_arithmetic", lambda *_: None)


def assert_alike(found, expected, rtol):
    for name in ATTRIBUTES:
        a, b = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=name)
    assert (found.n_iter_, found.converged_) == (expected.n_iter_, expected.converged_)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", TABLES)
def test_the_mixture_is_that_of_scikit_learn(table, family):
    load, k = TABLES[table]
    x, options = load(), {"covariance_type": family, "random_state": 0}
    found, expected = jgmm.GaussianMixture(k, **options).fit(x), Reference(k, **options).fit(x)
    assert_alike(found, expected, 1e-8)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))
    np.testing.assert_allclose(found.predict_proba(x), expected.predict_proba(x), atol=1e-8)
    np.testing.assert_allclose(found.score_samples(x), expected.score_samples(x), rtol=1e-9)
    assert found.bic(x) == pytest.approx(expected.bic(x), rel=1e-9)
    assert found.aic(x) == pytest.approx(expected.aic(x), rel=1e-9)
    for name in ATTRIBUTES:  # draws go by eigenvectors, of which rounding may choose others
        setattr(found, name, getattr(expected, name))
    for a, b in zip(found.sample(20), expected.sample(20), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", few(FAMILIES, "full"))
def test_larger_tables_are_fitted_by_jax_in_their_own_precision(family, dtype, compiled):
    x = load_iris().data.astype(dtype)
    options = {"covariance_type": family, "random_state": 0, "max_iter": 8, "tol": 0}
    with pytest.warns(ConvergenceWarning):
        found, expected = jgmm.GaussianMixture(3, **options).fit(x), Reference(3, **options).fit(x.astype(float))
    assert found.means_.dtype == found.precisions_.dtype == dtype
    assert_alike(found, expected, 1e-8 if dtype == np.float64 else 2e-2)
    assert found.score(x) == pytest.approx(expected.score(x), rel=1e-8 if dtype == np.float64 else 1e-4)


@pytest.mark.parametrize("init", ["random", "random_from_data", "k-means++"])
def test_starts_are_drawn_as_scikit_learn_draws_them(init):
    x = load_iris().data
    options = {"init_params": init, "random_state": 5, "max_iter": 0}
    found, expected = jgmm.GaussianMixture(3, **options).fit(x), Reference(3, **options).fit(x)
    np.testing.assert_allclose(found.means_, expected.means_)
    np.testing.assert_allclose(found.precisions_, expected.precisions_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("given", [["weights"], ["means"], ["precisions"], ["weights", "means", "precisions"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_starts_are_what_the_user_gives(family, given):
    x = load_iris().data
    known = Reference(3, covariance_type=family, random_state=0).fit(x)
    options = {f"{name}_init": getattr(known, f"{name}_") for name in given}
    options |= {"covariance_type": family, "random_state": 1, "tol": 1e-6, "max_iter": 300}
    assert_alike(jgmm.GaussianMixture(3, **options).fit(x), Reference(3, **options).fit(x), 1e-6)


def test_a_warm_start_goes_on():
    x, options = load_wine().data, {"covariance_type": "diag", "random_state": 0, "warm_start": True, "max_iter": 1}
    found, expected = jgmm.GaussianMixture(3, **options), Reference(3, **options)
    for _ in range(20):
        for model in (found, expected):
            with np.testing.suppress_warnings() as quiet:
                quiet.filter(ConvergenceWarning)
                model.fit(x)
        assert found.converged_ == expected.converged_
        assert found.lower_bound_ == pytest.approx(expected.lower_bound_)
    assert found.converged_


@pytest.mark.parametrize("by_jax", [False, True])
@pytest.mark.parametrize("family", few(FAMILIES, "full"))
def test_whole_weights_are_as_good_as_copies(family, by_jax, monkeypatch):
    if by_jax:
        monkeypatch.setattr(engines, "small_arithmetic", lambda *_: None)
    x = load_iris().data
    weight = np.random.default_rng(0).integers(0, 4, len(x))
    copies = np.repeat(x, weight, axis=0)
    options = {"covariance_type": family, "means_init": x[[0, 60, 120]], "weights_init": [0.2, 0.3, 0.5], "tol": 1e-7}
    covariances = {"full": [np.eye(4)] * 3, "tied": np.eye(4), "diag": np.ones((3, 4)), "spherical": np.ones(3)}
    options |= {"precisions_init": np.array(covariances[family]), "max_iter": 200}
    found, expected = jgmm.GaussianMixture(3, **options), Reference(3, **options).fit(copies)
    labels = found.fit_predict(x, sample_weight=weight)
    assert_alike(found, expected, 1e-8)
    np.testing.assert_array_equal(labels, found.predict(x))
    assert found.score(x, sample_weight=weight) == pytest.approx(expected.score(copies))


@pytest.mark.parametrize("family", few([f for f in COVARIANCES if f not in FAMILIES], "tied-diag"))
def test_further_families_are_those_of_fit_em(family):
    x = load_iris().data
    model = jgmm.GaussianMixture(2, covariance_type=family, random_state=0, max_iter=300).fit(x)
    assert model.gmm_.covariance.name == family
    np.testing.assert_allclose(model.score_samples(x), model.gmm_.log_prob(x), rtol=1e-4)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    assert model.bic(x) < jgmm.GaussianMixture(1, covariance_type=family).fit(x).bic(x)
    draws, labels = model.sample(4000)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(draws.mean(axis=0), x.mean(axis=0), atol=0.15)
    assert model.set_params(warm_start=True).fit(x).n_iter_ >= 1
    with pytest.raises(ValueError, match="precisions_init needs"):
        jgmm.GaussianMixture(2, covariance_type=family, precisions_init=np.ones(2)).fit(x)


@pytest.mark.slow
def test_rows_count_by_their_observed_features():
    x = load_iris().data.copy()
    rng = np.random.default_rng(0)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[np.isnan(x).all(axis=1)] = 1.0
    with pytest.raises(ValueError, match="NaN"):
        jgmm.GaussianMixture(3).fit(x)
    model = jgmm.GaussianMixture(3, missing="marginal", random_state=0, max_iter=200).fit(x)
    assert (np.diff(model.lower_bounds_) > -1e-9).all()
    expected = [model.gmm_.marginal(~np.isnan(row)).log_prob(row[~np.isnan(row)]) for row in x[:20].astype(np.float32)]
    np.testing.assert_allclose(model.score_samples(x[:20]), np.ravel(expected), rtol=1e-3)
    assert adjusted_rand_score(model.predict(x), load_iris().target) > 0.6


@pytest.mark.slow
def test_batches_of_rows():
    x = np.random.default_rng(0).permutation(load_digits().data[:, 10:30]).astype(np.float32)
    model = jgmm.GaussianMixture(4, covariance_type="diag", random_state=0)
    for start in range(0, 1797, 600):
        model.partial_fit(x[start : start + 600])
    assert model.n_iter_ == len(model.lower_bounds_) == 3
    whole = jgmm.GaussianMixture(4, covariance_type="diag", random_state=0, reg_covar=1e-2).fit(x)
    assert model.score(x) > whole.score(x) - 3
    copied = pickle.loads(pickle.dumps(model)).partial_fit(x[:100])
    assert copied.n_iter_ == 4
    np.testing.assert_allclose(copied.means_, model.partial_fit(x[:100]).means_)


def test_pipelines_searches_and_copies():
    x = load_iris().data
    search = GridSearchCV(jgmm.GaussianMixture(random_state=0), {"n_components": [1, 3], "covariance_type": ["full"]})
    assert search.fit(x).best_params_["n_components"] in (1, 3)
    pipe = make_pipeline(StandardScaler(), jgmm.GaussianMixture(3, random_state=0)).fit(x)
    again = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(again.predict(x), pipe.predict(x))
    assert clone(jgmm.GaussianMixture(2, missing="marginal")).get_params()["missing"] == "marginal"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance_type": "ful"}, "covariance_type"),
        ({"missing": "drop"}, "missing"),
        ({"covariance_type": print}, "makes no covariances"),
        ({"covariance_type": lambda k: k}, "is called as identity"),
        ({"n_components": 200}, "n_samples >= n_components"),
        ({"weights_init": [0.5, 0.6], "n_components": 2}, "normalized"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jgmm.GaussianMixture(**options).fit(load_iris().data)


def test_bad_rows_and_weights_are_refused(compiled):
    x = load_iris().data
    with pytest.raises(ValueError, match="Negative"):
        jgmm.GaussianMixture(2).fit(x, sample_weight=np.full(150, -1.0))
    with pytest.raises(ValueError, match="at least one non-zero"):
        jgmm.GaussianMixture(2).fit(x, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="ill-defined"):
        jgmm.GaussianMixture(3, reg_covar=0, random_state=0).fit(np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0))


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks():
    results = check_estimator(jgmm.GaussianMixture(), on_fail=None, on_skip=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 40


def test_what_float32_rounds_is_gone_on_from(tmp_path):
    """Nearly collinear features, whose covariances in float32 are not positive definite."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) * 100
    x = np.column_stack([x, x[:, 0] + 1e-3 * rng.normal(size=300)]).astype(np.float32)
    model = jgmm.GaussianMixture(2, random_state=0, warm_start=True, max_iter=20).fit(x)
    assert np.isfinite(model.gmm_.log_prob(x)).all()
    assert model.fit(x).n_iter_ >= 1


def test_results_have_the_wider_precision_of_rows_and_mixture():
    x = load_iris().data
    model = jgmm.GaussianMixture(2, random_state=0).fit(x)
    assert model.score_samples(x.astype(np.float32)).dtype == np.float64
    assert model.fit(x.astype(np.float32)).score_samples(x.astype(np.float32)).dtype == np.float32


def test_another_family_leaves_no_covariances_of_the_last_one_behind():
    x = load_iris().data
    model = jgmm.GaussianMixture(2, random_state=0, max_iter=300).fit(x)
    model.set_params(covariance_type=jgmm.low_rank(1)).fit(x)
    assert not hasattr(model, "covariances_")
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.score_samples(x), model.score_samples(x))


def test_weights_leave_too_few_rows():
    weight = np.zeros(150)
    weight[:2] = 1
    with pytest.raises(ValueError, match="n_samples = 2"):
        jgmm.GaussianMixture(3).fit(load_iris().data, sample_weight=weight)
    with pytest.raises(ValueError, match="Negative"):
        jgmm.GaussianMixture(2).fit(load_iris().data).score(load_iris().data, sample_weight=np.full(150, -1.0))

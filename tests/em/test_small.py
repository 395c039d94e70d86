"""Small tables, fitted in NumPy: the steps beside those in JAX, what moves repair, and fits beside scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SKLEARN
from sklearn.datasets import load_iris, load_wine
from sklearn.mixture import GaussianMixture

import jgmm
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.rows import RowsInMemory
from jgmm.em.small.families import Beliefs, arithmetic_of, squared_distances
from jgmm.em.small.loop import small_arithmetic
from jgmm.em.small.moves import moves
from jgmm.em.small.steps import Table, kmeans, one_hot
from jgmm.em.steps import em_step, from_clusters
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES

K, D = 3, 4
SMALL = [family for family in COVARIANCES if arithmetic_of(family)]


def table(x, family, prior=None, floor=None):
    return Table(x, arithmetic_of(family), Beliefs.of(*as_arrays(prior, floor, float), x.shape[1]), np.ones(len(x)))


def arrays(mixture):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(mixture)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(
    "prior",
    [
        None,
        Prior(strength=3.0, variance=np.arange(1.0, D + 1), mean_strength=2.0, mean=np.arange(0.0, D)),
        Prior(strength=3.0, variance=1.0 + np.arange(K * D).reshape(K, D)),
    ],
    ids=["likelihood", "prior", "prior of components"],
)
def test_the_steps_are_those_in_jax(family, prior, rng):
    x, label = rng.normal(size=(200, D)) * [1, 2, 3, 4], rng.integers(K, size=200)
    as_given = as_arrays(prior, Floor(absolute=1e-3), float)
    ours = table(x, family, prior, Floor(absolute=1e-3))
    mixture = ours.m_step(one_hot(label, K, ours.weight))
    rows = RowsInMemory(jnp.asarray(x))
    theirs = from_clusters(rows, jnp.asarray(label), *as_given, k=K, identity=identity_of(family))
    for a, b in zip(mixture, arrays(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    seen, step = ours.e_step(mixture), em_step(theirs, rows, *as_given)
    assert seen.log_likelihood == pytest.approx(float(step.log_likelihood) / 200, rel=1e-12)
    prior_of_a_row = float(step.log_prior) / 200
    assert seen.objective - seen.log_likelihood == pytest.approx(prior_of_a_row, rel=1e-9, abs=1e-12)
    for a, b in zip(ours.m_step(seen.r), arrays(step.gmm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("family", SMALL)
def test_long_tables_take_a_component_after_the_other(family, rng, monkeypatch):
    x = rng.normal(size=(500, D))
    r = rng.dirichlet(np.ones(K), size=500).T * (rng.random(500) > 0.2)
    ours = table(x, family)
    at_once = ours.m_step(r)
    monkeypatch.setattr("jgmm.em.small.families.AT_ONCE", 0)
    for a, b in zip(at_once, ours.m_step(r), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    other = ours.log_joint(at_once)
    monkeypatch.undo()
    np.testing.assert_allclose(other, ours.log_joint(at_once), rtol=1e-10)


def test_digits_far_off_are_kept(rng):
    """A component of deviation 1e-4 at 1e6, and the moments of it."""
    x = np.concatenate([rng.normal(size=(50, 2)), 1e6 + 1e-4 * rng.normal(size=(50, 2))])
    means, deviation = np.array([[0.0, 0.0], [1e6, 1e6]]), np.array([[1.0, 1.0], [1e-4, 1e-4]])
    found = squared_distances(x, means, deviation**-2)
    np.testing.assert_allclose(found, (((x - means[:, None]) / deviation[:, None]) ** 2).sum(axis=2), rtol=1e-6)
    fit = table(x, "diag").m_step(one_hot(np.repeat([0, 1], 50), 2, np.ones(100)))
    np.testing.assert_allclose(fit.leaf[1], x[50:].var(axis=0) + 1e-6, rtol=1e-6)


def test_kmeans_finds_clusters_and_takes_rows_that_coincide(rng):
    x = np.repeat(10 * np.eye(4), 25, axis=0) + rng.normal(size=(100, 4))
    label = kmeans(rng, x, 4, np.ones(len(x)))
    assert all(len(set(label[i : i + 25])) == 1 for i in range(0, 100, 25))
    assert len(set(label)) == 4
    assert kmeans(rng, np.ones((10, 2)), 3, np.ones(10)).shape == (10,)


@pytest.mark.parametrize("family", SMALL)
def test_moves_leave_a_poor_maximum(family, rng):
    """Two components on one cluster and one on two: a few iterations after the first move it is put right."""
    centers = np.array([[0, 0], [20, 0], [0, 20]])
    x = centers[np.repeat(np.arange(3), 100)] + rng.normal(size=(300, 2))
    poor = np.where(np.arange(300) < 100, np.arange(300) % 2, 2)
    ours = table(x, family)
    mixture = ours.m_step(one_hot(poor, 3, ours.weight))
    best = ours.e_step(ours.m_step(one_hot(np.repeat(np.arange(3), 100), 3, ours.weight))).objective
    moved = ours.m_step(moves(ours, rng, mixture)[0])
    for _ in range(10):
        moved = ours.m_step(ours.e_step(moved).r)
    assert ours.e_step(moved).objective == pytest.approx(best, abs=1e-3)


def test_a_fit_tells_its_states_and_stops_where_it_is_told():
    states = []
    x = load_iris().data
    fit = jgmm.fit_em(0, x, 3, covariance_type="full", n_init=2, max_iter=6, callback=states.append)
    assert [s.restart for s in states] == 7 * [0] + 7 * [1]
    assert len(fit.history) == 6
    assert not fit.converged
    assert states[-1].counts.sum() == pytest.approx(150)
    assert float(states[-1].gmm.weights.sum()) == pytest.approx(1)
    long = jgmm.fit_em(0, x, 3, covariance_type="full", n_init=2)
    assert long.converged
    assert np.diff(long.history).min() > -1e-9
    again = jgmm.fit_em(0, x, 3, covariance_type="full", n_init=2)
    np.testing.assert_array_equal(long.gmm.means, again.gmm.means)


def test_a_move_to_the_floor_is_none():
    """29 of the flowers have one width of petals: a component on them alone has a likelihood without bound."""
    x = load_iris().data
    for seed in range(10):
        fit = jgmm.fit_em(seed, x, 3, covariance_type="full")
        assert fit.history[-1] == pytest.approx(-1.2013, abs=1e-3)
        jgmm.fit_em(seed, x, 3, covariance_type="full", floor=Floor(absolute=0.0, relative=0.0))


def test_moves_are_made_under_a_prior_for_all_components_and_not_under_one_of_each(monkeypatch):
    seen = []
    monkeypatch.setattr("jgmm.em.small.loop.moves", lambda *args: seen.append(args) or [])
    x = load_iris().data
    jgmm.fit_em(0, x, 3, prior=Prior(strength=1.0))
    assert len(seen) == 1
    jgmm.fit_em(0, x, 3, prior=Prior(strength=1.0, variance=np.ones((3, 4))))
    assert len(seen) == 1


def test_what_is_given_stays_the_callers_own():
    """Later changes of an array do not reach the mixture made of it."""
    means = np.zeros((1000, 16), np.float32)
    gmm = jgmm.GMM.from_parameters(np.full(1000, 1e-3), means, np.ones(1000), "spherical")
    means[:] = 5
    assert float(jnp.abs(gmm.means).max()) == 0


def test_what_is_small():
    assert small_arithmetic((1797, 64), 10, "full") is not None
    assert small_arithmetic((1797, 64), 10, "tied-diag").tied
    assert small_arithmetic((50_000, 64), 100, "full") is None
    assert small_arithmetic((10**6, 1), 10, "diag") is None
    assert small_arithmetic((100, 2), 2, lambda k, d, dtype: None) is None


def test_a_likelihood_without_bound_is_refused():
    with pytest.raises(InputError, match="not finite"):
        jgmm.fit_em(0, np.ones((20, 3)), 2, covariance_type="full", floor=Floor(absolute=0.0, relative=0.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", SKLEARN)
@pytest.mark.parametrize("load", [load_iris, load_wine])
@pytest.mark.usefixtures("x64")
def test_at_least_the_likelihood_of_scikit_learn(load, family, dtype):
    x = load().data.astype(dtype)
    theirs = GaussianMixture(3, covariance_type=family, n_init=10, random_state=0).fit(x).score(x)
    ours = jgmm.fit_em(0, x, 3, covariance_type=family, n_init=10)
    assert ours.gmm.means.dtype == dtype
    assert ours.history[-1] >= theirs - 1e-3
    assert float(ours.gmm.log_prob(x).mean()) == pytest.approx(ours.history[-1], abs=2e-3)

"""k-means and k-means++ against scikit-learn and their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from jgmm.em import initializers as init
from jgmm.errors import InputError


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(load_digits().data, jnp.float32)


def inertia(x, centers):
    return float(((np.asarray(x)[:, None] - np.asarray(centers)[None]) ** 2).sum(axis=2).min(axis=1).mean())


def test_kmeans_is_as_good_as_scikit_learns(x):
    ours = min(inertia(x, init.centers(jax.random.key(i), x, 10)) for i in range(5))
    theirs = KMeans(10, n_init=5, random_state=0).fit(np.asarray(x)).inertia_ / len(x)
    assert ours < 1.02 * theirs


def test_the_metric_is_a_scaling_of_the_features(x):
    scale = jnp.linspace(0.1, 2, 64)
    plain = init.centers(jax.random.key(0), x * scale[None], 6)
    weighted = init.centers(jax.random.key(0), x, 6, metric=scale**2)
    np.testing.assert_allclose(weighted * scale[None], plain, rtol=1e-3, atol=1e-2)


def test_nearest_by_brute_force(x):
    centers = x[:7]
    label, distance = init.nearest(centers, jnp.ones(64))(x)
    brute = ((np.asarray(x)[:, None] - np.asarray(centers)[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(label, brute.argmin(axis=1))
    np.testing.assert_allclose(distance, brute.min(axis=1), rtol=1e-4, atol=1e-2)


def test_kmeans_plusplus_draws_by_squared_distance():
    """Points at 0, 1 and 3: from 0 the second center is 3 with probability 9/10."""
    x = jnp.array([[0.0], [1.0], [3.0]])
    pairs = [np.asarray(init.kmeans_plusplus(jax.random.key(i), x, 2, jnp.ones(1)))[:, 0] for i in range(600)]
    second = [b for a, b in pairs if a == 0]
    share = np.mean(np.array(second) == 3)
    assert abs(share - 0.9) < 4 * np.sqrt(0.09 / len(second))


def test_random_centers_are_different_rows(x):
    centers = np.asarray(init.centers(jax.random.key(0), x, 50, "random"))
    assert len(np.unique(centers, axis=0)) == 50
    assert all((np.asarray(x) == c).all(axis=1).any() for c in centers)


def test_empty_clusters_and_duplicated_rows():
    """Three different points, many times over, and as many clusters: each gets one, whatever the seeds were."""
    x = jnp.asarray(np.repeat([[0.0, 0], [5, 5], [9, 0]], 50, axis=0))
    for i in range(5):
        centers = init.centers(jax.random.key(i), x, 3)
        np.testing.assert_allclose(np.sort(centers, axis=0), [[0, 0], [5, 0], [9, 5]], atol=1e-5)
    assert np.isfinite(init.centers(jax.random.key(0), x, 7)).all()


def test_an_unknown_initializer_is_refused(x):
    with pytest.raises(InputError, match="Did you mean 'kmeans'"):
        init.centers(jax.random.key(0), x, 3, "kmean")


def test_log_energies_tell_clusters_apart_that_differ_in_spread_alone(rng):
    pattern = np.exp(np.where(np.arange(64) < 32, 1, -1) * 0.7)
    label = np.arange(600) % 2
    x = jnp.asarray(rng.normal(size=(600, 64)) * np.where(label[:, None] == 0, pattern, 1 / pattern), jnp.float32)
    found = np.asarray(init.beginning(jax.random.key(0), x, 2, "log-energy"))
    assert max((found == label).mean(), (found != label).mean()) > 0.98
    means = init.centers(jax.random.key(0), x, 2, "log-energy")
    np.testing.assert_allclose(means[found[0]], x[found == found[0]].mean(axis=0), atol=1e-5)


def test_what_an_initializer_returns_is_checked(x):
    def returns(value):
        return lambda key, x, k, metric: value

    labels = jnp.arange(len(x)) % 3
    np.testing.assert_array_equal(init.beginning(jax.random.key(0), x, 3, returns(labels)), labels)
    with pytest.raises(InputError, match="clusters from 0 to 1"):
        init.beginning(jax.random.key(0), x, 2, returns(labels))
    with pytest.raises(InputError, match=r"centers of shape \(3, 64\), or the cluster of each of the 1797 rows"):
        init.beginning(jax.random.key(0), x, 3, returns(jnp.zeros((3, 2))))

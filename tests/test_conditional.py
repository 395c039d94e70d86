"""Mixtures whose parameters a network makes of a context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import dense, random_mixture

from jgmm import ConditionalGMM
from jgmm.conditional import from_vector, to_vector
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import Floor, as_arrays
from jgmm.em.initializers import centers
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import from_centers
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES

types = pytest.mark.parametrize("covariance_type", ["full", "diagonal", "spherical"])
tied = pytest.mark.parametrize("tied", [False, True])
D, C, K = 3, 5, 4


def model(covariance_type="full", tied=False, context=C, **options):
    return ConditionalGMM(D, context, K, covariance_type, tied, **({"rngs": nnx.Rngs(0)} | options))


families = pytest.mark.parametrize("family", COVARIANCES)


@families
@pytest.mark.usefixtures("x64")
def test_there_and_back(family, rng):
    gmm = random_mixture(rng, family, 3, 4)
    for epsilon in (0.0, 1e-3):
        size, make = from_vector(3, 4, identity_of(family)(3, 4), epsilon)
        vector = to_vector(gmm, epsilon)
        assert vector.shape == (size,)
        again = make(vector)
        np.testing.assert_allclose(dense(again), dense(gmm), rtol=1e-12)
        np.testing.assert_allclose(again.means, gmm.means)
        np.testing.assert_allclose(again.log_weights, gmm.log_weights, rtol=1e-10)


@families
def test_any_numbers_make_a_mixture_and_every_one_has_a_gradient(family, rng):
    size, make = from_vector(3, 4, identity_of(family)(3, 4), 1e-6)
    for scale in (1.0, 50.0, 1e30):
        gmm = make(jnp.asarray(scale * rng.normal(size=size), jnp.float32))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gmm))
        assert np.exp(gmm.log_weights).sum() == pytest.approx(1, rel=1e-5)
        assert np.linalg.eigvalsh(dense(make(jnp.asarray(rng.normal(size=size))))).min() > 0
    some = jnp.asarray(rng.normal(size=size), jnp.float32)
    jacobian = jax.jacobian(lambda v: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(make(v))]))(some)
    assert (np.abs(jacobian).max(axis=0) > 0).all()


@types
@tied
def test_contexts_give_a_batch_of_mixtures(covariance_type, tied, rng):
    net = model(covariance_type, tied)
    c = jnp.asarray(rng.normal(size=(2, 7, C)), jnp.float32)
    gmm = net(c)
    assert gmm.batch_shape == (2, 7)
    x = jnp.asarray(rng.normal(size=(2, 7, D)), jnp.float32)
    one = net(c[1, 3])
    assert one.batch_shape == ()
    assert gmm.log_prob(x)[1, 3] == pytest.approx(float(one.log_prob(x[1, 3])), rel=1e-5)
    assert dense(one).shape == (K, D, D)
    if tied:
        assert np.ptp(dense(one), axis=0).max() == 0
    else:
        assert np.ptp(dense(one)[:, 0, 0]) > 0
    np.testing.assert_array_equal(net(c).log_prob(x), gmm.log_prob(x))


@pytest.mark.parametrize(
    ("covariance_type", "tied", "context"),
    [
        ("full", False, C),
        ("full", True, 0),
        ("diagonal", False, 0),
        ("diagonal", True, C),
        ("spherical", False, C),
        ("spherical", True, 0),
    ],
)
def test_every_parameter_has_a_gradient(covariance_type, tied, context, rng):
    net = model(covariance_type, tied, context)
    c = jnp.asarray(rng.normal(size=(64, C)), jnp.float32) if context else None
    x = jnp.asarray(rng.normal(size=(64, D)), jnp.float32)
    gradient = nnx.grad(lambda net: net(c).log_prob(x).mean())(net)
    leaves = jax.tree.leaves(gradient)
    assert leaves
    assert all(np.abs(leaf).max() > 0 and np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize(
    ("covariance_type", "tied"),
    [
        ("full", False),
        pytest.param("diagonal", True, marks=pytest.mark.slow),
        pytest.param("spherical", False, marks=pytest.mark.slow),
    ],
)
def test_extreme_contexts_stay_finite(covariance_type, tied, rng):
    net = model(covariance_type, tied)
    x = jnp.asarray(rng.normal(size=(2, D)), jnp.float32)
    signs = np.array([[1, -1, 1, 1, -1], [1, 1, 1, 1, 1]], np.float32)
    for size in (0.0, 1e4, 1e12, 3e38):
        gmm = net(jnp.asarray(size * signs))
        draws = gmm.sample(jax.random.key(0), (3,))
        for array in (gmm.log_prob(x), draws, *jax.tree.leaves(gmm)):
            assert np.isfinite(array).all()
    gradient = nnx.grad(lambda net: net(jnp.asarray(1e4 * signs)).log_prob(x).mean())(net)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("covariance_type", "tied", "strategy"),
    [
        ("full", False, "kmeans"),
        ("full", True, "random"),
        ("diagonal", False, "kmeans++"),
        ("spherical", True, "kmeans"),
    ],
)
def test_initialized_mixtures_are_those_of_the_clusters(covariance_type, tied, strategy, rng):
    x = jnp.asarray(np.concatenate([rng.normal(size=(50, D)) + 8 * rng.normal(size=D) for _ in range(K)]), jnp.float32)
    net = model(covariance_type, tied, 0)
    net.initialize(jax.random.key(3), x, strategy)
    gmm = net()
    ones = jnp.ones(D)
    means = centers(jax.random.key(3), x, K, strategy, ones)
    nothing = as_arrays(None, Floor(absolute=0.0), x.dtype)
    expected = from_centers(RowsInMemory(x), means, ones, *nothing, identity=identity_of(net.covariance_type))
    np.testing.assert_allclose(gmm.means, expected.means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(gmm.log_weights), np.exp(expected.log_weights), rtol=1e-5)
    np.testing.assert_allclose(dense(gmm), dense(expected), rtol=5e-3, atol=5e-3 * float(x.var()))
    # A context then makes little difference: at the start every mixture is near the clusters.
    net = model(covariance_type, tied)
    net.initialize(jax.random.key(3), x, strategy)
    near = net(jnp.asarray(rng.normal(size=(6, C)), jnp.float32))
    assert np.abs(near.means - gmm.means[None]).max() < 0.2


def test_clusters_without_rows_can_still_be_trained(rng):
    binary = ConditionalGMM(1, 0, 5, rngs=nnx.Rngs(0))
    binary.initialize(jax.random.key(0), jnp.asarray(rng.integers(0, 2, size=(40, 1)), jnp.float32))
    assert np.isfinite(binary.bias[...]).all()
    assert np.exp(binary().log_weights).min() > 1e-3


def test_the_model_of_a_mixture_is_the_mixture(rng):
    net = model("diagonal", context=0)
    gmm = net()
    again = ConditionalGMM.of(gmm)()
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(gmm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model()(), "expected a context"),
        (lambda: model()(jnp.zeros((4, C + 1))), rf"shape \(\.\.\., {C}\), got \(4, {C + 1}\)"),
        (lambda: model()(jnp.full((4, C), jnp.nan)), "NaN"),
        (lambda: model(context=0)(jnp.zeros((4, C))), "no context"),
        (lambda: model("banded"), "unknown covariance type"),
        (lambda: ConditionalGMM(0, rngs=nnx.Rngs(0)), "features must be at least 1"),
        (lambda: ConditionalGMM(2, components=0, rngs=nnx.Rngs(0)), "components must be at least 1"),
        (lambda: model(epsilon=-1.0), "epsilon"),
        (lambda: model(hidden_features=(8, 0)), "hidden_features"),
        (lambda: model().initialize(jax.random.key(0), jnp.ones((9, D)), "ward"), "unknown initializer"),
        (lambda: model().initialize(jax.random.key(0), jnp.ones((K - 1, D))), "too few for 4 components"),
        (lambda: model().initialize(jax.random.key(0), jnp.ones((9, D + 1))), r"shape \(n, 3\)"),
        (lambda: model().initialize(jax.random.key(0), jnp.full((9, D), jnp.nan)), "NaN"),
        (lambda: model().initialize(jax.random.key(0), jnp.ones((9, D))), "x is constant"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

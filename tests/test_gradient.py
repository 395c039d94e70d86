"""Gradient descent against EM, and mixtures as regressions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import make_s_curve
from sklearn.decomposition import PCA

from jgmm import ConditionalGMM, fit_gradient
from jgmm.data import load, to_features
from jgmm.em.loop import run_em
from jgmm.errors import InputError


@pytest.fixture(scope="module")
def digits():
    """Ten principal codes of the digits, deviation one in the first; training and held-out rows."""
    codes = PCA(10, random_state=0).fit_transform(to_features(load("digits").pixels))
    codes = (codes / codes[:, 0].std()).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(codes))
    return jnp.asarray(codes[order[:1400]]), jnp.asarray(codes[order[1400:]])


@pytest.mark.parametrize("family", ["full", pytest.param("tied", marks=pytest.mark.slow)])
def test_em_and_gradients_reach_the_same_optimum(family, digits):
    train, held_out = digits
    start = run_em(jax.random.key(0), train, k=5, covariance_type=family, max_iter=1).gmm
    by_em = run_em(jax.random.key(0), train, k=5, start=start, covariance_type=family, max_iter=500, tol=1e-5).gmm
    found = fit_gradient(
        jax.random.key(1),
        start,
        train,
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, 1500)),
        batch_size=1400,
        epochs=1500,
        holdout=0.0,
    )
    assert found.best == 1499
    theirs, ours = (float(gmm.log_prob(held_out).mean()) for gmm in (by_em, found.model))
    assert abs(theirs - ours) < 0.01
    assert found.log_likelihoods[-1] > found.log_likelihoods[0]


@pytest.mark.slow
def test_an_optimizer_with_a_line_search(digits):
    train, _ = digits
    start = run_em(jax.random.key(0), train, k=3, covariance_type="tied-diag", max_iter=1).gmm
    by_em = run_em(jax.random.key(0), train, k=3, start=start, covariance_type="tied-diag", max_iter=500, tol=1e-6)
    found = fit_gradient(
        jax.random.key(1), start, train, optimizer=optax.lbfgs(), batch_size=1400, epochs=60, holdout=0.0
    )
    assert found.log_likelihoods[-1] == pytest.approx(by_em.history[-1], abs=0.01)


@pytest.fixture(scope="module")
def turned_s_curve():
    """x given the height of an S-curve: up to three values of x for every height."""
    points, _ = make_s_curve(4000, noise=0.05, random_state=0)
    context, target = points[:, 2:], points[:, :1]
    return tuple(jnp.asarray(a, jnp.float32) for a in (context[:3000], target[:3000], context[3000:], target[3000:]))


@pytest.mark.slow
def test_a_mixture_beats_one_gaussian_on_a_many_valued_target(turned_s_curve):
    context, target, other_context, other_target = turned_s_curve
    score = {}
    for k in (1, 6):
        model = ConditionalGMM(1, 1, k, "spherical", rngs=nnx.Rngs(0))
        model.initialize(jax.random.key(0), target, "kmeans")
        before = model.bias[...]
        found = fit_gradient(jax.random.key(1), model, target, context, epochs=40, patience=None)
        np.testing.assert_array_equal(model.bias[...], before)  # the model given is left as it was
        predicted = found.model(other_context)
        score[k] = float(predicted.log_prob(other_target).mean())
    assert score[6] > score[1] + 0.5
    assert len(found.log_likelihoods) == len(found.held_out) == 40
    assert found.best == int(np.argmax(found.held_out))
    # The last of the two is calibrated: levels of held-out targets are uniform.
    level = np.sort(np.ravel(predicted.cdf(other_target)))
    assert np.abs(level - (np.arange(1000) + 0.5) / 1000).max() < 0.08
    inside = predicted.quantile(jnp.array([0.05, 0.95]))
    covered = ((inside[0] < other_target) & (other_target < inside[1])).mean()
    assert covered == pytest.approx(0.9, abs=0.04)
    draws = predicted.sample(jax.random.key(2), (500,))
    np.testing.assert_allclose(draws.mean(axis=0), predicted.mean(), atol=0.2)


@pytest.mark.slow
def test_training_ends_early_and_keeps_the_best(rng):
    x = jnp.asarray(rng.normal(size=(60, 2)), jnp.float32)
    start = run_em(jax.random.key(0), x, k=8, covariance_type="full", max_iter=1).gmm
    found = fit_gradient(
        jax.random.key(0), start, x, optimizer=optax.sgd(1e-2), epochs=500, holdout=0.3, patience=5, batch_size=16
    )
    assert len(found.held_out) < 500
    assert found.best == int(np.argmax(found.held_out)) == len(found.held_out) - 6


def test_bad_input_is_refused(rng):
    x, c = jnp.zeros((10, 2)), jnp.zeros((10, 3))
    model = ConditionalGMM(2, 3, 2, rngs=nnx.Rngs(0))
    key = jax.random.key(0)
    for call, message in (
        (lambda: fit_gradient(key, model, jnp.zeros((10, 4)), c), r"shape \(n, 2\), got \(10, 4\)"),
        (lambda: fit_gradient(key, model, x), "expected a context"),
        (lambda: fit_gradient(key, model, x, c[:5]), r"shape \(10, 3\).*got \(5, 3\)"),
        (lambda: fit_gradient(key, model, x.at[0].set(jnp.nan), c), "x must be finite"),
        (lambda: fit_gradient(key, model, x, c.at[0].set(jnp.inf)), "context must be finite"),
        (lambda: fit_gradient(key, model, x, c, holdout=1.0), "holdout"),
        (lambda: fit_gradient(key, model, x, c, holdout=0.01), "is none"),
        (lambda: fit_gradient(key, model, x, c, epochs=0), "at least 1"),
        (lambda: fit_gradient(key, model, x, c, patience=0), "patience"),
        (lambda: fit_gradient(key, model(c), x), "one mixture is fitted at a time"),
        (lambda: fit_gradient(key, model, x, c, optimizer=optax.sgd(float("nan"))), "lower the learning rate"),
    ):
        with pytest.raises(InputError, match=message):
            call()

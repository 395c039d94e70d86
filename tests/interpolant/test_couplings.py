"""Distances and plans against scipy and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from mixture_pairs import ends

from jgmm import interpolant as ip
from jgmm.covariance.diag import Diag
from jgmm.interpolant import plans
from jgmm.mixture import GMM


@pytest.mark.parametrize("family", ["full", "diag"])
def test_w2_of_gaussians_is_the_bures_formula(x64, family):
    source, target = ends(family, k=3)
    cost = ip.squared_wasserstein(source, target)
    covariances = [np.asarray(gmm.covariance.dense()) for gmm in (source, target)]
    for i in range(3):
        for j in range(3):
            a, b = covariances[0][i], covariances[1][j]
            root = scipy.linalg.sqrtm(a)
            bures = np.trace(a + b - 2 * scipy.linalg.sqrtm(root @ b @ root).real)
            shift = ((source.means[i] - target.means[j]) ** 2).sum()
            np.testing.assert_allclose(cost[i, j], shift + bures, rtol=1e-9)


def test_w2_of_a_mixture_to_itself_is_zero_in_float32():
    gmm = ends("full", k=3)[0]
    assert (np.abs(np.diagonal(ip.squared_wasserstein(gmm, gmm))) < 1e-8).all()


def test_mw2_is_the_linear_program(x64):
    source, target = ends("full", k=4)
    distance, plan = ip.mw2(source, target)
    cost = np.asarray(ip.squared_wasserstein(source, target))
    weights = [np.exp(np.asarray(gmm.log_weights)) for gmm in (source, target)]
    np.testing.assert_allclose(plan.sum(axis=1), weights[0], atol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), weights[1], atol=1e-9)
    # The dual program: max Σ w f + Σ v g with f_i + g_j ≤ cost_ij. Equal values prove both optimal.
    rows = np.concatenate([np.kron(np.eye(4), np.ones((4, 1))), np.kron(np.ones((4, 1)), np.eye(4))], axis=1)
    dual = scipy.optimize.linprog(-np.concatenate(weights), A_ub=rows, b_ub=cost.ravel(), bounds=(None, None))
    np.testing.assert_allclose(distance**2, -dual.fun, rtol=1e-9)


def test_mw2_of_equal_weights_is_an_assignment(x64, rng):
    k = 7
    gmms = [
        GMM(jnp.full(k, -np.log(k)), jnp.asarray(rng.normal(size=(k, 2))), Diag(jnp.asarray(rng.gamma(2, size=(k, 2)))))
        for _ in range(2)
    ]
    cost = np.asarray(ip.squared_wasserstein(*gmms))
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    distance, plan = ip.mw2(*gmms)
    np.testing.assert_allclose(distance**2, cost[rows, columns].mean(), rtol=1e-9)
    np.testing.assert_allclose(plan[rows, columns], 1 / k, atol=1e-9)


def test_entropic_plan_has_its_marginals_and_tends_to_the_optimal_one(x64):
    source, target = ends("full", k=4)
    cost = np.asarray(ip.squared_wasserstein(source, target))
    weights = [np.exp(np.asarray(gmm.log_weights)) for gmm in (source, target)]
    best = (ip.mw2(source, target).plan * cost).sum()
    paid = []
    for epsilon in (10.0, 0.3, 0.01):
        plan = plans.entropic(*weights, lambda: cost, epsilon)
        np.testing.assert_allclose(plan.sum(axis=1), weights[0], atol=1e-10)
        np.testing.assert_allclose(plan.sum(axis=0), weights[1], atol=1e-10)
        paid.append((plan * cost).sum())
    independent = (np.outer(*weights) * cost).sum()
    assert best <= paid[2] < paid[1] < paid[0] < independent
    np.testing.assert_allclose(paid[2], best, rtol=1e-3)


def test_matched_components(x64):
    source, target = ends("full")
    target = GMM(source.log_weights, target.means, target.covariance)
    coupling = ip.couple(source, target, "matched")
    np.testing.assert_array_equal(coupling.pairs, [[0, 0], [1, 1]])
    np.testing.assert_allclose(coupling.log_weights, source.log_weights, atol=1e-12)


def test_random_covariances():
    covariances = ip.random_covariances(jax.random.key(0), 200, 3)
    values = np.linalg.eigvalsh(covariances)
    assert values.min() >= 0.5
    np.testing.assert_allclose(values.mean(), 1.5, atol=0.1)
    means = ip.random_means(jax.random.key(0), 5000, 2, 3.0)
    np.testing.assert_allclose(np.asarray(means).std(axis=0), 3, rtol=0.05)

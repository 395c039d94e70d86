"""Which component of one mixture goes with which of the other: a table of weights [K0, K1] with the right sums.

plan(weights0, weights1, cost) -> weights, where cost() is the table of squared distances, which not every plan needs.
In float64 on the host: the tables are small and made once.
"""

from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.sparse
from scipy.special import logsumexp

from jgmm.errors import InputError, check

Cost = Callable[[], np.ndarray]

# The largest error of a marginal that a Sinkhorn iteration stops at, and how many there are at most.
MARGINAL_ERROR, ITERATIONS = 1e-12, 1_000_000


def independent(weights0: np.ndarray, weights1: np.ndarray, cost: Cost) -> np.ndarray:
    """w_i v_j."""
    return np.outer(weights0, weights1)


def matched(weights0: np.ndarray, weights1: np.ndarray, cost: Cost) -> np.ndarray:
    """Component i with component i. Raises InputError unless the weights are the same."""
    same = weights0.shape == weights1.shape and np.allclose(weights0, weights1, rtol=0, atol=1e-6)
    check(same, "matched components need mixtures of as many components with the same weights.")
    return np.diag(weights0)


def optimal(weights0: np.ndarray, weights1: np.ndarray, cost: Cost) -> np.ndarray:
    """The plan of least Σ W_ij cost_ij: a linear program (Delon and Desolneux, A Wasserstein-type distance in the
    space of Gaussian mixture models, 2020, section 4)."""
    table = cost()
    k0, k1 = table.shape
    sums = scipy.sparse.vstack(
        [scipy.sparse.kron(np.eye(k0), np.ones((1, k1))), scipy.sparse.kron(np.ones((1, k0)), np.eye(k1))]
    )
    scale = table.max() or 1.0
    answer = scipy.optimize.linprog(
        table.ravel() / scale, A_eq=sums.tocsr()[:-1], b_eq=np.concatenate([weights0, weights1])[:-1], method="highs"
    )
    if answer.status != 0:
        raise InputError(f"no optimal plan was found: {answer.message}")
    return np.maximum(answer.x, 0).reshape(k0, k1)


def entropic(weights0: np.ndarray, weights1: np.ndarray, cost: Cost, epsilon: float = 0.05) -> np.ndarray:
    """The plan of least Σ W_ij cost_ij + ε Σ W_ij log W_ij, with ε in units of the mean cost, by Sinkhorn's iteration
    in logarithms (Peyré and Cuturi, Computational Optimal Transport, 2019, section 4.4).

    Raises:
        InputError: Unless ε > 0, and if the iteration does not end.
    """
    check(epsilon > 0, f"epsilon must be above 0, got {epsilon}; the limit 0 is the optimal plan.")
    table = cost()
    unit = float(weights0 @ table @ weights1) or 1.0
    kernel = -table / (epsilon * unit)
    with np.errstate(divide="ignore"):  # a component of weight zero stays out
        log0, log1 = np.log(weights0), np.log(weights1)
    g = np.zeros_like(log1)
    for _ in range(ITERATIONS):
        f = log0 - logsumexp(kernel + g[None], axis=1)
        g = log1 - logsumexp(kernel + f[:, None], axis=0)
        plan = np.exp(kernel + f[:, None] + g[None])
        if np.abs(plan.sum(axis=1) - weights0).max() < MARGINAL_ERROR:
            return plan
    raise InputError(f"Sinkhorn's iteration did not end; raise epsilon, which is {epsilon}.")

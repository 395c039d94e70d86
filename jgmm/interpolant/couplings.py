"""Couplings of two mixtures: joint laws of (x_0, x_1) that are mixtures of Gaussians on R^2d with the given marginals.

plan        which component of the source goes with which of the data: `jgmm.registry.PLANS`, or a table of weights
inside      what happens within a pair: "independent" ends, or the "map" that is optimal between two Gaussians

couple(source, target, plan="optimal", inside="map")
joint(weights, means0, means1, cov00, cov01, cov11)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.errors import check, short
from jgmm.interpolant import alignment
from jgmm.interpolant.ends import check_same_space, check_weights
from jgmm.interpolant.gaussians import of_every, squared_wasserstein
from jgmm.interpolant.laws import Aligned, Dense, Law
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats
from jgmm.registry import PLANS

# How far the sums of a user's plan may be from the weights, and how negative an eigenvalue of a joint covariance may
# be, relative to the largest.
MARGINAL_ERROR, NEGATIVE = 1e-4, 1e-5


@dataclass(frozen=True)
class Coupling:
    """Σ_l π_l N([m0_l, m1_l], [[Σ00_l, Σ01_l], [Σ10_l, Σ11_l]]).

    Attributes:
        log_weights: log π_l.
        means0, means1: m0_l and m1_l.
        law: whether γ² I will be added -> the covariances of the pairs.
        pairs: the components (i, j) of each pair, where it was made of two mixtures.

    >>> ip.couple(source, target).means1.tolist()
    [[-3.0, 0.0], [3.0, 0.0]]
    """

    log_weights: Float[Array, " l"]
    means0: Float[Array, "l d"]
    means1: Float[Array, "l d"]
    law: Callable[[bool], Law]
    pairs: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Coupling(pairs={self.means0.shape[0]}, d={self.means0.shape[1]})"


class Optimal(NamedTuple):
    """The distance between two mixtures and the plan that attains it."""

    distance: float
    plan: np.ndarray


def mw2(source: GMM, target: GMM) -> Optimal:
    """MW2, the W2 distance over couplings that are Gaussian mixtures: √ min_W Σ W_ij W2²(N_i, N_j).

    Delon and Desolneux, A Wasserstein-type distance in the space of Gaussian mixture models, SIAM J. Imaging Sciences,
    2020, proposition 4. Raises InputError for mixtures of different dimension or weights that do not sum to one.

    >>> distance, plan = ip.mw2(source, target)
    >>> round(distance, 4), plan.tolist()
    (3.0822, [[0.5, 0.5]])
    """
    check_same_space(source, target)
    cost = _cost(source, target)
    plan = PLANS["optimal"](_weights(source), _weights(target), lambda: cost)
    return Optimal(float(np.sqrt(max((plan * cost).sum(), 0.0))), plan)


def couple_mixtures(
    source: GMM,
    target: GMM,
    plan: Any = "independent",
    inside: str = "independent",
    **options: Any,
) -> Coupling:
    """`jgmm.interpolant.couple` of two plain mixtures."""
    known = isinstance(inside, str) and inside in ("independent", "map")
    check(known, f"inside must be 'independent' or 'map', got {short(inside)}.")
    check_same_space(source, target)
    if isinstance(plan, str) or callable(plan):
        table = PLANS.resolve(plan)(_weights(source), _weights(target), lambda: _cost(source, target), **options)
    else:
        table = np.asarray(as_floats("plan", plan), np.float64)
        _check_plan(table, _weights(source), _weights(target))
    i, j = np.nonzero(table)
    log_weights = jnp.asarray(np.log(table[i, j] / table.sum()), source.means.dtype)
    law = _diagonal if source.covariance.axis_aligned and target.covariance.axis_aligned else _full
    pairs = np.stack([i, j], axis=1)
    made = law(source, target, pairs, inside == "map")
    return Coupling(log_weights, source.means[i], target.means[j], made, pairs)


def joint(
    weights: Float[Array, " l"],
    means0: Float[Array, "l d"],
    means1: Float[Array, "l d"],
    cov00: Float[Array, "l d d"],
    cov01: Float[Array, "l d d"],
    cov11: Float[Array, "l d d"],
) -> Coupling:
    """Any mixture of Gaussians of (x_0, x_1): Σ_l π_l N([m0, m1], [[Σ00, Σ01], [Σ01ᵀ, Σ11]]).

    Raises:
        InputError: For weights that do not sum to one, shapes that do not agree, and a joint covariance that is not
            symmetric positive semi-definite.

    >>> eye, zero = jax.numpy.eye(2)[None], jax.numpy.zeros((1, 2))
    >>> ip.joint(jax.numpy.ones(1), zero, zero, eye, 0.5 * eye, eye).means0.shape
    (1, 2)
    """
    n, d = means0.shape
    given = {"means1": means1.shape, "cov00": cov00.shape, "cov01": cov01.shape, "cov11": cov11.shape}
    expected = {"means1": (n, d), "cov00": (n, d, d), "cov01": (n, d, d), "cov11": (n, d, d)}
    for name, shape in expected.items():
        check(given[name] == shape, f"{name} must have shape {shape} as means0, got {given[name]}.")
    check(weights.shape == (n,), f"weights must have shape ({n},) as means0, got {weights.shape}.")
    check_weights("the weights of the pairs", weights)
    s00, s01, s11 = (np.asarray(s, np.float64) for s in (cov00, cov01, cov11))
    matrices = np.block([[s00, s01], [s01.swapaxes(1, 2), s11]])
    symmetric = np.abs(matrices - matrices.swapaxes(1, 2)).max() <= NEGATIVE * np.abs(matrices).max()
    check(symmetric, "cov00 and cov11 must be symmetric.")
    values = np.linalg.eigvalsh(matrices)
    worst = int(np.argmin(values[:, 0] / values[:, -1]))
    check(
        values[worst, 0] >= -NEGATIVE * values[worst, -1],
        f"the joint covariance [[cov00, cov01], [cov01ᵀ, cov11]] of pair {worst} is not positive semi-definite: its "
        f"least eigenvalue is {values[worst, 0]:.3g}.",
    )
    law = Dense(cov00, cov01, cov11)
    return Coupling(jnp.log(weights), means0, means1, lambda smoothed: law)


def _diagonal(source: GMM, target: GMM, pairs: np.ndarray, mapped: bool) -> Callable[[bool], Law]:
    """Diagonal covariances: their own axes are the coordinates, whatever γ."""
    v0 = of_every(source, source.covariance.variance())[pairs[:, 0]]
    v1 = of_every(target, target.covariance.variance())[pairs[:, 1]]
    v01 = jnp.sqrt(v0 * v1) if mapped else jnp.zeros_like(v0)
    law = Aligned(v0, v1, v01, jnp.zeros(len(pairs), v0.dtype))
    return lambda smoothed: law


def _full(source: GMM, target: GMM, pairs: np.ndarray, mapped: bool) -> Callable[[bool], Law]:
    """Full covariances: aligned coordinates where there are any, else the matrices themselves."""
    factors = [np.asarray(gmm.covariance.factor(), np.float64) for gmm in (source, target)]
    sides = [(factors[0][i % len(factors[0])], factors[1][j % len(factors[1])]) for i, j in pairs]
    dtype = source.means.dtype

    def stack(rows: list[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *rows)

    @cache
    def law(smoothed: bool) -> Law:
        if not smoothed:
            found = alignment.of_optimal_map if mapped else alignment.of_independent
            return Aligned(*stack([found(a, b) for a, b in sides]))
        commuting = [alignment.of_commuting(a, b, mapped) for a, b in sides]
        if all(c is not None for c in commuting):
            return Aligned(*stack(commuting))
        cross = [alignment.optimal_cross(a, b) if mapped else np.zeros_like(a) for a, b in sides]
        return Dense(*stack([(a @ a.T, c, b @ b.T) for (a, b), c in zip(sides, cross, strict=True)]))

    return law


def _cost(source: GMM, target: GMM) -> np.ndarray:
    return np.asarray(squared_wasserstein(source, target), np.float64)


def _weights(gmm: GMM) -> np.ndarray:
    weights = np.exp(np.asarray(gmm.log_weights, np.float64))
    return weights / weights.sum()


def _check_plan(plan: np.ndarray, weights0: np.ndarray, weights1: np.ndarray) -> None:
    expected = (len(weights0), len(weights1))
    check(plan.shape == expected, f"a plan must have shape {expected}, as the mixtures, got {plan.shape}.")
    check((plan >= 0).all(), "a plan must not have negative weights.")
    for axis, weights, name in ((1, weights0, "source"), (0, weights1, "data")):
        error = np.abs(plan.sum(axis=axis) - weights).max()
        check(
            error < MARGINAL_ERROR,
            f"the plan's sums over axis {axis} must be the weights of the {name}; they differ by {error:.3g}.",
        )

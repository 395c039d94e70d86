"""Coordinates in which two Gaussians are tied one by one, found once for all t, in float64 on the host.

Every function takes factors A, B with Σ0 = A Aᵀ, Σ1 = B Bᵀ and returns the fields of `Aligned` for one pair, as NumPy
arrays. Variances in these coordinates are kept above FLOOR times their sum: where a covariance is singular, velocity
and score grow to that limit at its end of the path and stay finite.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular

Matrix = np.ndarray

FLOOR = 1e-12
# How large the off-diagonal elements of matrices that commute may be in their common basis, relative to the largest.
COMMUTING = 1e-10


class Coordinates(NamedTuple):
    """The fields of `jgmm.interpolant.laws.Aligned`."""

    v0: Matrix
    v1: Matrix
    v01: Matrix
    log_det: float
    basis: Matrix
    inverse: Matrix
    factor: Matrix | None = None
    whitener: Matrix | None = None


def of_independent(a: Matrix, b: Matrix) -> Coordinates:
    """The generalized eigenvectors of Σ0 and Σ1, scaled so that v0 + v1 = 1: with Σ0 + Σ1 = L Lᵀ and
    L⁻¹Σ0L⁻ᵀ = U Λ Uᵀ, P = L U."""
    total = _factor(a @ a.T + b @ b.T)
    left = solve_triangular(total, a, lower=True)
    right = solve_triangular(total, b, lower=True)
    _, u = np.linalg.eigh(left @ left.T - right @ right.T)
    v0, v1 = ((u.T @ left) ** 2).sum(axis=1), ((u.T @ right) ** 2).sum(axis=1)
    inverse = solve_triangular(total, u, lower=True, trans="T").T
    log_det = 2 * np.log(np.diag(total)).sum()
    return Coordinates(*_floored(v0, v1), np.zeros_like(v0), log_det, total @ u, inverse)


def of_optimal_map(a: Matrix, b: Matrix) -> Coordinates:
    """The eigenvectors of the optimal map. Its coordinates are all moved at once, so v0 = 1, v1 = m², v01 = m, with the
    covariance of x_0 in them for K."""
    m, p = np.linalg.eigh(_optimal_map(a, b))
    m = np.maximum(m, np.sqrt(FLOOR) * max(m.max(), 1.0))
    factor = _factor(p.T @ a @ a.T @ p)
    whitener = solve_triangular(factor, np.eye(len(m)), lower=True)
    log_det = 2 * np.log(np.diag(factor)).sum()
    return Coordinates(np.ones_like(m), m**2, m, log_det, p, p.T, factor, whitener)


def of_commuting(a: Matrix, b: Matrix, mapped: bool) -> Coordinates | None:
    """The common orthonormal eigenvectors of Σ0 and Σ1, to which γ² I may be added; None where there are none.

    With `mapped` x_1 is the optimal map of x_0, v01 = √(v0 v1); otherwise the ends are independent.
    """
    s0, s1 = a @ a.T, b @ b.T
    _, p = np.linalg.eigh(s0 / np.trace(s0) + (5**0.5 - 1) / 2 * s1 / np.trace(s1))
    variances = []
    for s in (s0, s1):
        rotated = p.T @ s @ p
        v = np.diag(rotated).copy()
        if np.abs(rotated - np.diag(v)).max() > COMMUTING * np.abs(v).max():
            return None
        variances.append(v)
    v0, v1 = _floored(*variances)
    return Coordinates(v0, v1, np.sqrt(v0 * v1) if mapped else np.zeros_like(v0), 0.0, p, p.T)


def optimal_cross(a: Matrix, b: Matrix) -> Matrix:
    """Cov(x_0, x_1) = Σ0 M of the optimal map."""
    return a @ a.T @ _optimal_map(a, b)


def _optimal_map(a: Matrix, b: Matrix) -> Matrix:
    """M of x ↦ m_1 + M (x − m_0), M = A⁻ᵀ (Aᵀ Σ1 A)^½ A⁻¹: symmetric, M Σ0 M = Σ1 (Peyré and Cuturi, Computational
    Optimal Transport, 2019, remark 2.31)."""
    a = _factor(a @ a.T)
    u, s, _ = np.linalg.svd(a.T @ b)
    root = np.linalg.solve(a.T, u * np.sqrt(s))
    return root @ root.T


def _floored(v0: Matrix, v1: Matrix) -> tuple[Matrix, Matrix]:
    floor = FLOOR * (v0 + v1)
    return np.maximum(v0, floor), np.maximum(v1, floor)


def _factor(s: Matrix) -> Matrix:
    """Its lower Cholesky factor, with FLOOR times the mean variance on the diagonal."""
    return cholesky(s + FLOOR * np.trace(s) / len(s) * np.eye(len(s)), lower=True)

"""EM where values are missing: every row counts by the features that were observed in it (Ghahramani and Jordan,
Supervised learning from incomplete data via an EM approach, NIPS 1994).

With o the observed features of row n, and responsibilities r_nk from log w_k + log N(x_o | μ_ko, Σ_koo), component k
expects of the others

    x̂_k = μ_k + Σ_k,·o Σ_koo⁻¹ (x_o − μ_ko),    C_k = Σ_k − Σ_k,·o Σ_koo⁻¹ Σ_ko,·

and the statistics of the M-step are Σ r, Σ r (x̂ − μ) and Σ r [(x̂ − μ)(x̂ − μ)ᵀ + C]. Rows that miss the same features
share the matrices. Values are taken to be missing at random: that one is missing says nothing of what it is.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float, Int

from jgmm.covariance.base import Covariance
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.loop import climb, says_something
from jgmm.em.statistics import Statistics
from jgmm.em.steps import log_prior, m_step
from jgmm.errors import check
from jgmm.mixture import GMM, LOG_2PI, check_single
from jgmm.numerics.arguments import as_floats, check_kind
from jgmm.numerics.linalg import einsum, matmul
from jgmm.numerics.pytree import Additive, pytree, zeros_of
from jgmm.numerics.summation import CompensatedSum
from jgmm.numerics.typing import ArrayLike

# The most rows of one pattern that are taken together.
MOST = 256


@pytree
class _Pieces:
    """Rows in pieces of as many, all of a piece with the same features missing; those that fill it up weigh nothing.

    Attributes:
        rows: Which rows are in each piece.
        weight: How often they count.
        observed: Which features they have.
    """

    rows: Int[Array, "q r"]
    weight: Float[Array, "q r"]
    observed: Bool[Array, "q d"]

    @classmethod
    def of(cls, missing: Bool[np.ndarray, "n d"], weight: np.ndarray | None, dtype: Any) -> "_Pieces":
        """Rows by what they miss."""
        _, kind = np.unique(missing, axis=0, return_inverse=True)
        counts = np.bincount(kind.ravel())
        size, order = min(MOST, -(-len(missing) // len(counts))), np.argsort(kind.ravel(), kind="stable")
        alike = np.split(order, np.cumsum(counts)[:-1])
        parts = [rows[start : start + size] for rows in alike for start in range(0, len(rows), size)]
        table = np.stack([np.pad(part, (0, size - len(part)), "edge") for part in parts])
        real = np.arange(size)[None] < np.array([len(part) for part in parts])[:, None]
        often = np.ones(len(missing)) if weight is None else weight
        weights = jnp.asarray(np.where(real, often[table], 0), dtype)
        return cls(jnp.asarray(table), weights, jnp.asarray(~missing[table[:, 0]]))


@pytree
class _Sums(Additive):
    """Statistics about the means, with scatters as matrices, or their diagonals for axis-aligned covariances."""

    log_likelihood: CompensatedSum
    counts: Float[Array, " k"]
    first: Float[Array, "k d"]
    scatter: Array


@pytree
class _Expected:
    """What components make of a piece of rows: log w_k + log p(x_o | k), x̂ and C (its diagonal where they are so)."""

    log_joint: Float[Array, "r k"]
    x: Float[Array, "r k d"]
    left: Array


def _expected(gmm: GMM, x: Float[Array, "r d"], observed: Bool[Array, " d"]) -> _Expected:
    seen = observed.astype(gmm.dtype)
    off = jnp.where(observed[None, None], x[:, None] - gmm.means[None], 0)
    if gmm.covariance.axis_aligned:
        variance = jnp.broadcast_to(gmm.covariance.variance(), gmm.means.shape)
        log_det, distances = matmul(jnp.log(variance), seen), (off**2 / variance[None]).sum(axis=2)
        shift, left = jnp.zeros_like(off), variance * (1 - seen)[None]
    else:
        dense = jnp.broadcast_to(gmm.covariance.dense(), (gmm.k, gmm.d, gmm.d))

        def component(leaf: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
            covariance, y = leaf
            inner = covariance * (seen[:, None] * seen[None])
            factor = jnp.linalg.cholesky(inner + jnp.diag(1 - seen))
            cross = covariance * (seen[:, None] * (1 - seen)[None])  # of observed and missing features
            explained = matmul(cho_solve((factor, True), y.T).T, cross)
            part = solve_triangular(factor, cross, lower=True)
            rest = covariance * ((1 - seen)[:, None] * (1 - seen)[None]) - matmul(part.T, part)
            white = solve_triangular(factor, y.T, lower=True)
            return 2 * jnp.log(jnp.diagonal(factor)).sum(), (white**2).sum(axis=0), explained, rest

        log_det, distances, shift, left = jax.lax.map(component, (dense, off.swapaxes(0, 1)))
        distances, shift = distances.T, shift.swapaxes(0, 1)
    log_p = -0.5 * (seen.sum() * LOG_2PI + log_det[None] + distances)
    return _Expected(gmm.log_weights[None] + log_p, gmm.means[None] + off + shift, left)


@jax.jit
def _e_step(gmm: GMM, x: Float[Array, "n d"], pieces: _Pieces) -> Statistics:
    def piece(leaf: tuple[Array, Array, Array]) -> _Sums:
        rows, weight, observed = leaf
        found = _expected(gmm, x[rows], observed)
        log_likelihood = jax.nn.logsumexp(found.log_joint, axis=1)
        r = jnp.exp(found.log_joint - log_likelihood[:, None]) * weight[:, None]
        off, counts = found.x - gmm.means[None], r.sum(axis=0)
        if found.left.ndim == 2:
            scatter = einsum("rk,rkd->kd", r, off**2) + counts[:, None] * found.left
        else:
            scatter = einsum("rk,rki,rkj->kij", r, off, off) + counts[:, None, None] * found.left
        seen = CompensatedSum.of(jnp.where(weight > 0, weight * log_likelihood, 0))
        return _Sums(seen, counts, einsum("rk,rkd->kd", r, off), scatter)

    def add(total: _Sums, leaf: tuple[Array, Array, Array]) -> tuple[_Sums, None]:
        return total + piece(leaf), None

    leaves = (pieces.rows, pieces.weight, pieces.observed)
    zero = zeros_of(piece, jax.tree.map(lambda leaf: leaf[0], leaves))
    sums, _ = jax.lax.scan(add, zero, leaves)
    none = jnp.zeros((), x.dtype)
    second = _in_family(gmm.covariance, sums.scatter)
    return Statistics(sums.log_likelihood, sums.counts, sums.first, second, none, none)


def _in_family(covariance: Covariance, scatter: Array) -> Array:
    """Scatters as a family writes them: those of rows that have these scatters."""
    k, d = scatter.shape[:2]
    if scatter.ndim == 2:
        rows, r = jnp.sqrt(scatter), jnp.eye(k, dtype=scatter.dtype)
    else:
        values, vectors = jax.lax.map(lambda one: tuple(jnp.linalg.eigh(one)), scatter)
        rows = (vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None]).swapaxes(1, 2).reshape(k * d, d)
        r = jnp.repeat(jnp.eye(k, dtype=scatter.dtype), d, axis=0)
    return covariance.moments(rows, r, jnp.zeros((k, d), scatter.dtype))


@partial(jax.jit, static_argnames="with_prior")
def _step(
    gmm: GMM, x: Array, pieces: _Pieces, prior: Prior, floor: Floor, *, with_prior: bool
) -> tuple[GMM, CompensatedSum, Array]:
    statistics = _e_step(gmm, x, pieces)
    penalty = log_prior(gmm, prior) if with_prior else jnp.zeros((), x.dtype)
    return m_step(gmm, statistics, prior, floor), statistics.log_likelihood, penalty


def with_missing(
    gmm: GMM,
    x: Float[Array, "n d"],
    weight: Float[Array, " n"] | None,
    prior: Prior,
    floor: Floor,
    *,
    max_iter: int,
    tol: float,
) -> tuple[GMM, list[float], bool]:
    """EM on rows in which NaN is what is missing, from a mixture; otherwise as `jgmm.em.scales.with_scales`.

    Returns:
        The mixture, the objective before each iteration (mean nats a row), and whether its last change was below `tol`.
    """
    counts = None if weight is None else np.asarray(weight)
    total = float(len(x) if counts is None else counts.sum())
    step = step_with_missing(np.asarray(x), counts, prior, floor)
    return climb(step, gmm, total, x.dtype, max_iter=max_iter, tol=tol)


def step_with_missing(
    x: Float[np.ndarray, "n d"], weight: np.ndarray | None, prior: Prior, floor: Floor
) -> Callable[[GMM], tuple[GMM, CompensatedSum, Array]]:
    """An iteration on these rows: the next mixture, and Σ log p(x_o) and log p(parameters) under the last one."""
    pieces = _Pieces.of(np.isnan(x), weight, x.dtype)
    filled, with_prior = jnp.nan_to_num(jnp.asarray(x), nan=0.0), says_something(prior)
    return lambda gmm: _step(gmm, filled, pieces, prior, floor, with_prior=with_prior)


def observed_log_prob(gmm: GMM, x: ArrayLike) -> Float[Array, " n"]:
    """log p(x_o) of the features observed in each row, nats; NaN is what is missing.

    Raises:
        InputError: For rows of another width, and a batch of mixtures.

    >>> import jgmm
    >>> import numpy as np
    >>> from jgmm.em.missing import observed_log_prob
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 5.0]], [1.0])
    >>> print(observed_log_prob(gmm, [[0.0, np.nan]]).round(3))
    [-0.919]
    """
    return jax.nn.logsumexp(observed_log_joint(gmm, x), axis=1)


def observed_log_joint(gmm: GMM, x: ArrayLike) -> Float[Array, "n k"]:
    """log w_k + log p(x_o | k) of the features observed in each row, nats. Raises InputError as `observed_log_prob`."""
    return _of_rows(gmm, x)[0]


def impute(gmm: GMM, x: ArrayLike) -> Float[Array, "n d"]:
    """The rows with E[x_d | x_o] in the place of what is missing (NaN): the mean of `GMM.conditional`, for every row.

    Raises:
        InputError: As `observed_log_prob`.

    >>> import jgmm
    >>> import numpy as np
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    >>> print(jgmm.impute(gmm, [[2.0, np.nan]]))
    [[2. 1.]]
    """
    return _of_rows(gmm, x)[1]


def _of_rows(gmm: GMM, x: ArrayLike) -> tuple[Float[Array, "n k"], Float[Array, "n d"]]:
    check_kind("gmm", gmm, GMM, "a jgmm.GMM")
    check_single(gmm)
    rows = as_floats("x", x, gmm.dtype, finite=False).astype(gmm.dtype)
    check(rows.ndim == 2 and rows.shape[1] == gmm.d, f"expected rows of shape (n, {gmm.d}), got {rows.shape}.")
    missing = np.isnan(np.asarray(rows))
    if len(rows) == 0:
        return jnp.zeros((0, gmm.k), rows.dtype), rows
    return _filled(gmm, jnp.nan_to_num(rows, nan=0.0), jnp.asarray(missing), _Pieces.of(missing, None, rows.dtype))


@jax.jit
def _filled(gmm: GMM, x: Array, missing: Array, pieces: _Pieces) -> tuple[Array, Array]:
    def piece(leaf: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, observed = leaf
        found = _expected(gmm, x[rows], observed)
        r = jax.nn.softmax(found.log_joint, axis=1)
        return found.log_joint, einsum("rk,rkd->rd", r, found.x)

    log_p, expected = jax.lax.map(piece, (pieces.rows, pieces.observed))
    index = pieces.rows.ravel()
    whole = jnp.zeros_like(x).at[index].set(expected.reshape(-1, x.shape[1]))
    return jnp.zeros((len(x), gmm.k), x.dtype).at[index].set(log_p.reshape(-1, gmm.k)), jnp.where(missing, whole, x)

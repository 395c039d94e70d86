"""The E-step without the pairs (row, component) that provably do not matter.

The distance of a row to a component in an iteration of EM is bounded by the one before: if Σ and μ change little, so
does it (`Distances.drift`). This is what Hamerly (Making k-means even faster, SDM 2010) does for k-means, with a
matrix norm in the place of the centers' movement. A pair whose log-joint density is bounded to lie `margin` below that
of another component of the same row has a responsibility below the rounding error of the row's sum, and is left out.

The bounds are an array [K, N] of lower bounds on distances, zero where nothing is known yet.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.covariance.base import Distances
from jgmm.em.rows import Rows, RowsInMemory
from jgmm.em.tiles import in_tiles, put_values
from jgmm.mixture import GMM
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.sharding import COMPONENTS, ROWS, zeros

# The largest array of bounds, in elements.
MOST = 2**27


def negligible(k: int, dtype: np.dtype) -> float:
    """The responsibility below which a pair is left out: 8 eps / K, so that a row loses at most 8 eps:
    1e-6 in float32, nothing in float64."""
    return 8 * float(jnp.finfo(dtype).eps) / k


def no_bounds(gmm: GMM, rows: Rows) -> Float[Array, "k n"] | None:
    """The bounds before the first iteration; None for mixtures of few or cheap components, too many pairs, and rows on
    disk."""
    n = rows.shape[0]
    worthwhile = gmm.covariance.screened and gmm.k * n <= MOST and isinstance(rows, RowsInMemory)
    return zeros((gmm.k, n), gmm.means.dtype, (COMPONENTS, ROWS)) if worthwhile else None


def log_joint_of_relevant(
    constant: Float[Array, " k"],
    distances: Distances,
    x: Float[Array, "n d"],
    bounds: Float[Array, "k n"],
    sparse_below: float,
) -> tuple[Float[Array, "n k"], Float[Array, "n k"], Float[Array, "k n"]]:
    """log w_k + log N(x_n | μ_k, Σ_k), −∞ where it is provably negligible; an upper bound of it everywhere; and the
    bounds, sharpened where a distance was computed.

    `constant` is that of `jgmm.mixture.log_constant`, `sparse_below` that of the covariances.
    """
    k, n = bounds.shape
    upper = constant[:, None] - 0.5 * bounds**2

    def log_density(rows: Array, leaf: Any, x: Array) -> Array:
        constant, own = leaf
        return constant - 0.5 * distances.one(x[rows], own)

    def with_those(pairs: Array, log_p: Array) -> Array:
        return put_values(log_density, pairs, log_p, (constant, distances.leaves), x)

    # The component that may be the best of a row gives the density that the others must come near.
    likely = jnp.argmax(upper, axis=0)
    first = with_those(likely[None] == jnp.arange(k)[:, None], jnp.full((k, n), -jnp.inf, x.dtype))
    least = first.max(axis=0) + np.log(negligible(k, x.dtype))
    relevant = (upper >= least[None]) & (first == -jnp.inf)

    def some() -> Array:
        return with_those(relevant, first)

    def every() -> Array:
        return constant[:, None] - 0.5 * map_chunks(distances.every, x).T

    log_p = jax.lax.cond(in_tiles(relevant.sum(axis=1)) <= sparse_below * k * n, some, every)
    known = log_p > -jnp.inf
    distance = jnp.sqrt(2 * jnp.maximum(constant[:, None] - log_p, 0))
    return log_p.T, jnp.where(known, log_p, upper).T, jnp.where(known, distance, bounds)


def carried_over(bounds: Float[Array, "k n"], distances: Distances, to: GMM) -> Float[Array, "k n"]:
    """The bounds as bounds of the mixture that an iteration has made of the one of `distances`."""
    scale, moved = distances.drift(to.covariance, to.means)
    return jnp.maximum(scale[:, None] * bounds - moved[:, None], 0)

"""The E-step without the pairs (row, component) that provably do not matter.

The distance of a row to a component in an iteration of EM is bounded by the one before: if Σ and μ change little, so
does it (`Distances.drift`). This is what Hamerly (Making k-means even faster, SDM 2010) does for k-means, with a
matrix norm in the place of the centers' movement. A pair whose log-joint density is bounded to lie `margin` below that
of another component of the same row has a responsibility below the rounding error of the row's sum, and is left out.

The bounds are an array [K, N] of lower bounds on distances, zero where nothing is known yet.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.covariance.base import Distances
from jgmm.em.tiles import ChosenPairs, in_tiles
from jgmm.mixture import GMM, log_constant
from jgmm.numerics.chunking import map_chunks

# The largest array of bounds, in elements.
MOST = 2**27


def negligible(k: int, dtype: np.dtype) -> float:
    """The responsibility below which a pair is left out: 8 eps / K, so that a row loses at most 8 eps:
    1e-6 in float32, nothing in float64."""
    return 8 * float(jnp.finfo(dtype).eps) / k


def no_bounds(gmm: GMM, n: int) -> Float[Array, "k n"] | None:
    """The bounds before the first iteration; None for mixtures of few or cheap components, and for too many pairs."""
    worthwhile = gmm.covariance.screened and gmm.k * n <= MOST
    return jnp.zeros((gmm.k, n), gmm.means.dtype) if worthwhile else None


def log_joint_of_relevant(
    gmm: GMM, distances: Distances, x: Float[Array, "n d"], bounds: Float[Array, "k n"]
) -> tuple[Float[Array, "n k"], Float[Array, "n k"], Float[Array, "k n"]]:
    """log w_k + log N(x_n | μ_k, Σ_k), −∞ where it is provably negligible; an upper bound of it everywhere; and the
    bounds, sharpened where a distance was computed."""
    k, n = bounds.shape
    constant = log_constant(gmm)
    upper = constant[:, None] - 0.5 * bounds**2

    def log_density(rows: Array, component: Array) -> Array:
        return constant[component] - 0.5 * distances.one(x[rows], component)

    # The component that may be the best of a row gives the density that the others must come near.
    likely = jnp.argmax(upper, axis=0)
    first = ChosenPairs(likely[None] == jnp.arange(k)[:, None]).values(log_density, jnp.full((k, n), -jnp.inf, x.dtype))
    least = first.max(axis=0) + np.log(negligible(k, x.dtype))
    relevant = (upper >= least[None]) & (first == -jnp.inf)

    def some() -> Array:
        return ChosenPairs(relevant).values(log_density, first)

    def every() -> Array:
        return constant[:, None] - 0.5 * map_chunks(distances.every, x).T

    log_p = jax.lax.cond(in_tiles(relevant.sum(axis=1)) <= gmm.covariance.sparse_below * k * n, some, every)
    known = log_p > -jnp.inf
    distance = jnp.sqrt(2 * jnp.maximum(constant[:, None] - log_p, 0))
    return log_p.T, jnp.where(known, log_p, upper).T, jnp.where(known, distance, bounds)


def carried_over(bounds: Float[Array, "k n"], distances: Distances, to: GMM) -> Float[Array, "k n"]:
    """The bounds as bounds of the mixture that an iteration has made of the one of `distances`."""
    scale, moved = distances.drift(to.covariance, to.means)
    return jnp.maximum(scale[:, None] * bounds - moved[:, None], 0)

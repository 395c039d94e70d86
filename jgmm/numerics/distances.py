"""Squared distances to many centers, and second moments about them, as matrix products that keep their digits.

Expanding Σ_d p_d (x_d − μ_d)² = Σ p x² − 2 Σ (p μ) x + Σ p μ² turns the work of all components into matrix
products, but rounds by about eps · (Σ p x² + Σ p μ²), however small the result. Two measures keep the digits: the
origin is moved to the middle of the centers first; and where a row still lies so close to a center, or a center so
far from the middle in units of its own standard deviation, that more than LOSS times the rounding of the direct sum
would be lost, the chunk is computed by differences for that component.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jgmm.numerics.linalg import matmul
from jgmm.numerics.sharding import map_components

# What cancellation may cost, as a multiple of the rounding error of the direct sum over D features.
LOSS = 32
# The same for the second moment of one feature, in units of eps relative to its variance.
LOSS_OF_MOMENT = 2**13


def middle(means: Float[Array, "k d"]) -> Float[Array, "1 d"]:
    """The origin the expansions are taken about."""
    return means.mean(axis=0, keepdims=True)


def patch(far: Bool[Array, " k"], approximate: Array, exact: Callable[..., Array], leaves: Any, *shared: Any) -> Array:
    """Rows of `approximate` [k, ...], those of the far components replaced by exact(leaf, *shared), for leaves [k, ...]
    of what it knows of every component."""

    def row(leaf: Any, *shared: Any) -> Array:
        is_far, row, own = leaf
        return jax.lax.cond(is_far, lambda: exact(own, *shared), lambda: row)

    return jax.lax.cond(
        far.any(), lambda: map_components(row, (far, approximate, leaves), *shared), lambda: approximate
    )


def squared_distances(
    means: Float[Array, "k d"], precision: Float[Array, "#k #d"]
) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
    """x -> Σ_d p_kd (x_nd − μ_kd)², clipped at zero; `precision` may be shared over components, features or both."""
    origin = middle(means)
    centers = means - origin  # (K, D)
    weighted = precision * centers  # (K, D)
    constant = jnp.sum(weighted * centers, axis=1)  # (K,)
    every = jnp.broadcast_to(precision, (means.shape[0], precision.shape[1]))

    def exact(leaf: tuple[Array, Array], x: Array) -> Array:
        precision, mean = leaf
        return jnp.sum(precision[None] * (x - mean[None]) ** 2, axis=1)

    def distances(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        y = x - origin
        squares = y * y if precision.shape[1] > 1 else jnp.sum(y * y, axis=1, keepdims=True)
        # As [K, N]: with few components the products are faster that way round.
        size = matmul(precision, squares.T) + constant[:, None]  # of the terms that cancel
        expanded = size - 2 * matmul(weighted, y.T)
        far = (size > LOSS * jnp.maximum(expanded, y.shape[1])).any(axis=1)
        found = patch(far, expanded, exact, (every, means), x)
        return jnp.maximum(found.T, 0)

    return distances


def first_moments(x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Σ_n r_nk (x_n − μ_k)."""
    origin = middle(means)
    return matmul(r.T, x - origin) - r.sum(axis=0)[:, None] * (means - origin)


def second_moments(
    x: Float[Array, "n d"],
    r: Float[Array, "n k"],
    means: Float[Array, "k d"],
    precision: Float[Array, "#k #d"],
) -> Float[Array, "k d"]:
    """Σ_n r_nk (x_nd − μ_kd)² for every feature. `precision`, the inverse of the variance that is about to be
    replaced, tells how much of it cancellation would lose."""
    origin = middle(means)
    y, centers, counts = x - origin, means - origin, r.sum(axis=0)[:, None]
    expanded = matmul(r.T, y * y) - 2 * centers * matmul(r.T, y) + counts * centers**2
    spread = (precision * centers**2).max(axis=1)
    far = (spread > LOSS_OF_MOMENT) & (counts[:, 0] > 0)  # a chunk without a share in the component adds zero

    def exact(leaf: tuple[Array, Array], x: Array) -> Array:
        mean, weight = leaf
        return matmul(weight[None], (x - mean[None]) ** 2)[0]

    return patch(far, expanded, exact, (means, r.T), x)

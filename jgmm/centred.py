"""Squared distances to many centres, and second moments about them, as matrix products that keep their digits.

Expanding Σ_d p_d (x_d − μ_d)² = Σ p x² − 2 Σ (p μ) x + Σ p μ² turns the work of all components into matrix
products, but loses about eps · Σ p μ² by cancellation. Two measures make it exact to working precision: the
origin is moved to the middle of the centres first, and a component that still lies far from it in units of its
own standard deviation is computed by differences, one component at a time. A direct sum over D features rounds
by about eps · D as it is; LOSS says how much more than that is put up with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jgmm.products import matmul

# What cancellation may lose, as a multiple of the rounding error of the direct sum.
LOSS = 32
# The same for the second moment of one feature, in units of eps relative to its variance.
LOSS_OF_MOMENT = 2**13


def middle(means: Float[Array, "k d"]) -> Float[Array, "1 d"]:
    """The origin the expansions are taken about."""
    return means.mean(axis=0, keepdims=True)


def spread(means: Float[Array, "k d"], precision: Float[Array, "#k #d"]) -> Float[Array, "k d"]:
    """p_d (μ_d − middle_d)²: what cancellation multiplies the rounding error by, feature by feature."""
    return precision * (means - middle(means)) ** 2


def patch(far: Bool[Array, " k"], approximate: Array, exact: Callable[[Array], Array]) -> Array:
    """Rows of `approximate` [k, ...], those of the far components replaced by exact(k)."""
    k = jnp.arange(far.shape[0])

    def row(index: Array) -> Array:
        return jax.lax.cond(far[index], exact, lambda i: approximate[i], index)

    return jax.lax.cond(far.any(), lambda: jax.lax.map(row, k), lambda: approximate)


def squared_distances(
    means: Float[Array, "k d"], precision: Float[Array, "#k #d"]
) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
    """x -> Σ_d p_kd (x_nd − μ_kd)², clipped at zero; `precision` may be shared over components, features or both."""
    origin = middle(means)
    centres = means - origin  # (K, D)
    weighted = precision * centres  # (K, D)
    constant = jnp.sum(weighted * centres, axis=1)  # (K,)
    far = spread(means, precision).sum(axis=1) > LOSS * means.shape[1]
    every = jnp.broadcast_to(precision, (means.shape[0], precision.shape[1]))

    def distances(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        y = x - origin
        squares = y * y if precision.shape[1] > 1 else jnp.sum(y * y, axis=1, keepdims=True)
        expanded = matmul(squares, precision.T) - 2 * matmul(y, weighted.T) + constant[None]
        exact = patch(far, expanded.T, lambda k: jnp.sum(every[k][None] * (x - means[k][None]) ** 2, axis=1))
        return jnp.maximum(exact.T, 0)

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
    y, centres, counts = x - origin, means - origin, r.sum(axis=0)[:, None]
    expanded = matmul(r.T, y * y) - 2 * centres * matmul(r.T, y) + counts * centres**2
    far = spread(means, precision).max(axis=1) > LOSS_OF_MOMENT
    return patch(far, expanded, lambda k: matmul(r[:, k][None], (x - means[k][None]) ** 2)[0])

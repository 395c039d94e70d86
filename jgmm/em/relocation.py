"""New places for components that explain too few rows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jgmm.covariance.prior import Floor, Prior
from jgmm.em.rows import Largest, Rows
from jgmm.em.steps import DEAD, chunk_size, m_step_of
from jgmm.mixture import GMM, log_joint
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.sharding import by_component, taken


@jax.jit
def revive(gmm: GMM, rows: Rows, counts: Float[Array, " k"]) -> GMM:
    """Move every dead component to one of the rows the mixture explains worst.

    It takes the covariance of the component that row belongs to, and the weight of one row.
    """
    joint = log_joint(gmm)

    def chunk(x: Array, weight: Array) -> Largest:
        log_p = map_chunks(joint, x)
        return Largest.of(gmm.k, -jax.nn.logsumexp(log_p, axis=1), weight, x, jnp.argmax(log_p, axis=1))

    dead = counts < DEAD * rows.unit
    row, parent = rows.sum(chunk, chunk_size(gmm.k)).nth(jnp.cumsum(dead) - 1)
    weights = jnp.where(dead, rows.unit / rows.total, gmm.weights)
    means = jnp.where(dead[:, None], row, gmm.means)
    covariance = jax.tree.map(lambda leaf: _adopted(leaf, dead, parent), gmm.covariance)
    return by_component(GMM(jnp.log(weights / weights.sum()), means, covariance), gmm.k)


@jax.jit
def split(
    gmm: GMM, rows: Rows, counts: Float[Array, " k"], small: Bool[Array, " k"], prior: Prior, floor: Floor
) -> tuple[GMM, Prior]:
    """Give up the small components and halve as many of the largest ones: an M-step in which the rows that a component
    explains worse than it does on average go to its new half. The prior on a half is that of the whole."""
    joint = log_joint(gmm)
    parent = jnp.argsort(-jnp.where(small, -1, counts))[jnp.cumsum(small) - 1]
    parent = jnp.where(small, parent, jnp.arange(gmm.k))

    def log_joint_of_others(x: Array) -> Array:
        return jnp.where(small[None], -jnp.inf, map_chunks(joint, x))

    def total(x: Array, weight: Array) -> Array:
        log_p = log_joint_of_others(x)
        r = jax.nn.softmax(log_p, axis=1) * weight[:, None]
        return jnp.stack([(r * jnp.where(r > 0, log_p, 0)).sum(axis=0), r.sum(axis=0)])

    sums = rows.sum(total, chunk_size(gmm.k))
    average = sums[0] / jnp.where(sums[1] > 0, sums[1], 1)
    halved = jnp.zeros(gmm.k, bool).at[parent].max(small)

    def responsibilities(x: Array) -> Array:
        log_p = log_joint_of_others(x)
        r = jax.nn.softmax(log_p, axis=1)
        worse = log_p < average[None]
        kept = jnp.where(halved[None] & worse, 0, r)
        return jnp.where(small[None], (r * worse)[:, parent], kept)

    blank = replace(
        gmm,
        means=taken(gmm.means, parent),
        covariance=jax.tree.map(lambda leaf: _adopted(leaf, small, parent), gmm.covariance),
    )
    of_halves = jax.tree.map(lambda leaf: _adopted(leaf, small, parent) if leaf.ndim == 2 else leaf, prior)
    return m_step_of(blank, rows, responsibilities, of_halves, floor), of_halves


def _adopted(leaf: Array, moved: Bool[Array, " k"], parent: Array) -> Array:
    """The leaf with the rows of the parents in the place of those moved; as it is where all components share it."""
    if leaf.shape[0] != moved.shape[0]:
        return leaf
    return jnp.where(moved.reshape(-1, *[1] * (leaf.ndim - 1)), taken(leaf, parent), leaf)

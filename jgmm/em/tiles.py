"""Sums and values over chosen (row, component) pairs, a tile of rows of one component at a time.

After a few iterations of EM a row has one or two components left that matter. The rows of a component are gathered in
tiles of one shape, so that the work on what is left of N·K pairs is dense products again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jgmm.numerics.sharding import map_components

# Rows gathered at a time. Fewer waste less of a component's last tile, more keep products at full speed.
TILE = 512

C = TypeVar("C", bound=Any)


def in_tiles(counts: Int[Array, " k"]) -> Int[Array, ""]:
    """How many pairs are computed for so many of each component: the last tile of each is padded."""
    return (-(-counts // TILE) * TILE).sum()


def fold_tiles(chosen: Bool[Array, " n"], f: Callable[[C, Int[Array, " t"], Bool[Array, " t"]], C], carry: C) -> C:
    """f over the tiles of the rows that are chosen: f(carry, rows, valid). Rows that are not valid repeat the last."""
    # How many rows up to and including n are chosen: it tells where the t-th is.
    ranks = jnp.cumsum(chosen, dtype=jnp.int32)
    count, last = ranks[-1], ranks.shape[0] - 1

    def tile(t: Array, carry: C) -> C:
        rank = t * TILE + jnp.arange(TILE)
        rows = jnp.minimum(jnp.searchsorted(ranks, rank, side="right", method="scan_unrolled"), last)
        return f(carry, rows, rank < count)

    return jax.lax.fori_loop(0, -(-count // TILE), tile, carry)


def put_values(
    f: Callable[..., Float[Array, " t"]], mask: Bool[Array, "k n"], out: Float[Array, "k n"], leaves: Any, *shared: Any
) -> Float[Array, "k n"]:
    """`out` with f(rows, leaf, *shared) in the place of every pair where the mask is true, for leaves [k, ...] of what
    f knows of every component."""

    def component(leaf: Any, *shared: Any) -> Array:
        chosen, values, own = leaf

        def put(values: Array, rows: Array, valid: Array) -> Array:
            found = f(rows, own, *shared)
            return values.at[jnp.where(valid, rows, values.shape[0])].set(found, mode="drop")

        return fold_tiles(chosen, put, values)

    return map_components(component, (mask, out, leaves), *shared)

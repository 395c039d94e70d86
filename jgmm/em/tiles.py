"""Sums and values over chosen (row, component) pairs, a tile of rows of one component at a time.

After a few iterations of EM a row has one or two components left that matter. The rows of a component are gathered in
tiles of one shape, so that the work on what is left of N·K pairs is dense products again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jgmm.numerics.pytree import pytree

# Rows gathered at a time. Fewer waste less of a component's last tile, more keep products at full speed.
TILE = 512

C = TypeVar("C", bound=Any)


def in_tiles(counts: Int[Array, " k"]) -> Int[Array, ""]:
    """How many pairs are computed for so many of each component: the last tile of each is padded."""
    return (-(-counts // TILE) * TILE).sum()


@pytree
class ChosenPairs:
    """Chosen pairs: those where the mask is true."""

    mask: Bool[Array, "k n"]

    def fold(self, k: Int[Array, ""], f: Callable[[C, Int[Array, " t"], Bool[Array, " t"]], C], carry: C) -> C:
        """f over the tiles of component k: f(carry, rows, valid). Rows that are not valid repeat the last one."""
        # How many rows up to and including n are chosen: it tells where the t-th is.
        ranks = jnp.cumsum(self.mask[k], dtype=jnp.int32)
        count, last = ranks[-1], ranks.shape[0] - 1

        def tile(t: Array, carry: C) -> C:
            rank = t * TILE + jnp.arange(TILE)
            rows = jnp.minimum(jnp.searchsorted(ranks, rank, side="right", method="scan_unrolled"), last)
            return f(carry, rows, rank < count)

        return jax.lax.fori_loop(0, -(-count // TILE), tile, carry)

    def values(
        self, f: Callable[[Int[Array, " t"], Int[Array, ""]], Float[Array, " t"]], out: Float[Array, "k n"]
    ) -> Float[Array, "k n"]:
        """`out` with f(rows, k) in the place of every pair."""

        def component(leaf: tuple[Array, Array]) -> Array:
            k, values = leaf

            def put(values: Array, rows: Array, valid: Array) -> Array:
                return values.at[jnp.where(valid, rows, values.shape[0])].set(f(rows, k), mode="drop")

            return self.fold(k, put, values)

        return jax.lax.map(component, (jnp.arange(out.shape[0]), out))

"""Passes over the rows of large arrays, a chunk at a time.

The last chunk is moved back to end at the last row: nothing is padded or copied, and every chunk has one shape. On a
mesh (`jgmm.numerics.sharding`) every device passes over its own rows.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.numerics.pytree import zeros_of
from jgmm.numerics.sharding import ROWS, added, cut, on_every

# About this many elements a chunk: large enough for full-speed matrix products, small enough for the caches.
ELEMENTS = 2**20

# A pytree of arrays; where sums are meant, one that adds, with all zeros for its zero.
S = TypeVar("S", bound=Any)


def _chunking(rows: Any, chunk_size: int | None) -> tuple[int, int, Callable[[Array | int], tuple[Array, Any]]]:
    """Rows a chunk, number of chunks, and i -> (first row, the rows) of chunk i. Chunks are as equal as can be."""
    leaf = jax.tree.leaves(rows)[0]
    n = leaf.shape[0]
    n_chunks = -(-n // (chunk_size or max(2048, min(8192, ELEMENTS // leaf[0].size))))
    c = -(-n // n_chunks)

    def take(i: Array | int) -> tuple[Array, Any]:
        start = jnp.minimum(i * c, n - c)
        return start, jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, c), rows)

    return c, n_chunks, take


def fold_chunks(
    f: Callable[[S, Array, Any, Float[Array, " c"]], S], carry: S, rows: Any, chunk_size: int | None = None
) -> S:
    """f over the chunks: f(carry, first row, rows, weights).

    A row weighs one, or zero where an earlier chunk has had it. `rows` is a pytree of arrays [n, ...]; the first leaf
    sets the dtype of the weights.
    """
    c, n_chunks, take = _chunking(rows, chunk_size)
    dtype = jax.tree.leaves(rows)[0].dtype

    def chunk(i: Array | int, carry: S) -> S:
        start, part = take(i)
        return f(carry, start, part, (start + jnp.arange(c) >= i * c).astype(dtype))

    return chunk(0, carry) if n_chunks == 1 else jax.lax.fori_loop(0, n_chunks, chunk, carry)


def sum_chunks(f: Callable[[Any, Float[Array, " c"]], S], rows: Any, chunk_size: int | None = None) -> S:
    """Σ over chunks of f(rows, weights), with rows and weights as in `fold_chunks`."""
    if cut(rows, ROWS):
        return on_every(ROWS, lambda part: added(sum_chunks(f, part, chunk_size)), (0,), None)(rows)
    c, n_chunks, take = _chunking(rows, chunk_size)
    weights = jnp.ones(c, jax.tree.leaves(rows)[0].dtype)
    if n_chunks == 1:
        return f(rows, weights)
    zero = zeros_of(lambda: f(take(0)[1], weights))
    return fold_chunks(lambda total, _, part, weight: total + f(part, weight), zero, rows, chunk_size)


def map_chunks(f: Callable[[Any], Any], rows: Any, chunk_size: int | None = None) -> Any:
    """f(rows), for an f that maps [c, ...] to a pytree of arrays [c, ...], row by row independent."""
    if cut(rows, ROWS):
        return on_every(ROWS, lambda part: map_chunks(f, part, chunk_size), (0,), 0)(rows)
    _, n_chunks, take = _chunking(rows, chunk_size)
    if n_chunks == 1:
        return f(rows)
    n = jax.tree.leaves(rows)[0].shape[0]
    shapes = jax.eval_shape(lambda: f(take(0)[1]))
    empty = jax.tree.map(lambda s: jnp.zeros((n, *s.shape[1:]), s.dtype), shapes)

    def chunk(out: Any, start: Array, part: Any, _: Array) -> Any:
        return jax.tree.map(lambda o, y: jax.lax.dynamic_update_slice_in_dim(o, y, start, 0), out, f(part))

    return fold_chunks(chunk, empty, rows, chunk_size)

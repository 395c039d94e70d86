"""Passes over the rows of a data set: one word, `sum`, that EM, k-means and re-seeding are written on.

`rows.sum(f)` is Σ f(rows, weights) over chunks of rows, for an f whose values add: `Statistics`, `CompensatedSum`,
`Largest`, or plain arrays. Rows in memory are one implementation; who adds, and where the rows come from, is its own
business. A weight is how often a row counts, one where nothing else is said, and zero for a row that another chunk has
had.
"""

import abc
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jgmm.numerics.chunking import fold_chunks, sum_chunks
from jgmm.numerics.pytree import pytree, zeros_of

# A pytree of arrays that adds, with all zeros for its zero.
S = TypeVar("S", bound=Any)


class Rows(abc.ABC):
    """N rows of D features."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(N, D)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """Of the rows, and of what is computed from them."""

    @property
    @abc.abstractmethod
    def total(self) -> Any:
        """The sum of all weights."""

    @property
    @abc.abstractmethod
    def unit(self) -> Any:
        """What one row is worth: 1 where weights are whole numbers, and their mean where they are not."""

    @abc.abstractmethod
    def sum(self, f: Callable[[Float[Array, "c d"], Float[Array, " c"]], S], chunk_size: int) -> S:
        """Σ over chunks of f(rows, weights), of about `chunk_size` rows where the user has not asked for others."""

    @abc.abstractmethod
    def sum_with_state(
        self, f: Callable[[Array, Array, Array], tuple[S, Array]], state: Shaped[Array, "k n"], chunk_size: int
    ) -> tuple[S, Shaped[Array, "k n"]]:
        """The same for an f(rows, weights, state) that knows something of every row, and returns it brought up to date:
        the sum, and the new state of all rows."""


def unit_of(xp: Any, weight: Any) -> Any:
    """`Rows.unit`, in NumPy or in JAX."""
    return xp.where((weight == xp.round(weight)).all(), 1, weight.mean())


@pytree
class RowsInMemory(Rows):
    """Rows on one device, visited a chunk at a time: nothing is copied or padded.

    Attributes:
        x: The rows.
        weight: How often each counts, above zero; None for once.
        asked: Rows taken at a time, if the user has asked for a number.

    >>> import jax.numpy as jnp
    >>> from jgmm.em.rows import RowsInMemory
    >>> rows = RowsInMemory(jnp.ones((10, 2)), asked=4)
    >>> float(rows.sum(lambda x, weights: (weights @ x).sum(), chunk_size=8))
    20.0
    """

    x: Float[Array, "n d"]
    weight: Float[Array, " n"] | None = None
    asked: int | None = field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.x.shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.x.dtype

    @property
    def total(self) -> Any:
        return self.x.shape[0] if self.weight is None else self.weight.sum()

    @property
    def unit(self) -> Any:
        return 1.0 if self.weight is None else unit_of(jnp, self.weight)

    def sum(self, f: Callable[[Float[Array, "c d"], Float[Array, " c"]], S], chunk_size: int) -> S:
        if self.weight is None:
            return sum_chunks(f, self.x, self.asked or chunk_size)
        return sum_chunks(lambda part, new: f(part[0], part[1] * new), (self.x, self.weight), self.asked or chunk_size)

    def sum_with_state(
        self, f: Callable[[Array, Array, Array], tuple[S, Array]], state: Shaped[Array, "k n"], chunk_size: int
    ) -> tuple[S, Shaped[Array, "k n"]]:
        def chunk(carry: tuple[S, Array], start: Array, part: Array, new: Array) -> tuple[S, Array]:
            total, state = carry
            weight = new
            if self.weight is not None:
                weight = new * jax.lax.dynamic_slice_in_dim(self.weight, start, part.shape[0])
            known = jax.lax.dynamic_slice_in_dim(state, start, part.shape[0], axis=1)
            found, known = f(part, weight, known)
            return total + found, jax.lax.dynamic_update_slice_in_dim(state, known, start, axis=1)

        one = self.x[:1]
        zero = zeros_of(lambda: f(one, one[:, 0], state[:, :1])[0])
        return fold_chunks(chunk, (zero, state), self.x, self.asked or chunk_size)


@pytree
class Largest:
    """The rows of the largest scores seen so far: two of these add to the largest of both.

    Attributes:
        score: In falling order.
        valid: Whether there is a row; there are fewer than asked for at first.
        row: The rows themselves.
        label: A number that came with each.
    """

    score: Float[Array, " k"]
    valid: Array
    row: Float[Array, "k d"]
    label: Array

    @classmethod
    def of(cls, k: int, score: Array, weight: Array, row: Array, label: Array) -> "Largest":
        """The k rows of the largest scores among those that count."""
        return cls(score, weight > 0, row, label)._best(k)

    def __add__(self, other: "Largest") -> "Largest":
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), self, other)
        return both._best(self.score.shape[0])

    def _best(self, k: int) -> "Largest":
        missing = max(k - self.score.shape[0], 0)
        whole = jax.tree.map(lambda a: jnp.pad(a, ((0, missing), *[(0, 0)] * (a.ndim - 1))), self)
        _, index = jax.lax.top_k(jnp.where(whole.valid, whole.score, -jnp.inf), k)
        return jax.tree.map(lambda a: a[index], whole)

    def nth(self, i: Array) -> tuple[Array, Array]:
        """The row and the label of the i-th largest score; of the last one where there are fewer."""
        last = jnp.maximum(self.valid.sum() - 1, 0)
        index = jnp.clip(i, 0, last)
        return self.row[index], self.label[index]

"""Passes over the rows of a data set: one word, `sum`, that EM, k-means and re-seeding are written on.

`rows.sum(f)` is Σ f(rows, weights) over chunks of rows, for an f whose values add: `Statistics`, `CompensatedSum`,
`Largest`, or plain arrays. Rows in memory, on one device or cut over many, are one implementation, rows on disk
(`jgmm.em.streamed`) another; who adds, and where the rows come from, is its own business. A weight is how often a row
counts, one where nothing else is said, and zero for a row that another chunk has had.
"""

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from jgmm.encoder.base import Encoder
from jgmm.errors import check
from jgmm.numerics.chunking import fold_chunks, sum_chunks
from jgmm.numerics.processes import check_parts, of_all, to_host
from jgmm.numerics.pytree import pytree, zeros_of
from jgmm.numerics.sharding import ROWS, added, at, cut, free_axes, n_parts, on_every, padded_length, spread_rows

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
    def sample(self, key: PRNGKeyArray, most: int) -> tuple[Any, Any]:
        """All rows, if they are at most so many numbers, and else as many of them, at random; and how often each of
        them counts, None for once. On a mesh, and from disk, they are arrays of NumPy's, the same on every process."""

    @abc.abstractmethod
    def encoded(self, encoder: Encoder) -> "Rows":
        """The codes of the rows, which count as often."""

    def reading(self) -> AbstractContextManager[Any]:
        """In this context an error that reading rows has raised is that error, and not what JAX makes of it."""
        return nullcontext()

    def some(self, key: PRNGKeyArray, most: int) -> "RowsInMemory":
        """`sample`, as rows in memory."""
        found = self.sample(key, most)
        return on_mesh(*(own_part(*found) if free_axes() else found))


def unit_of(xp: Any, weight: Any) -> Any:
    """`Rows.unit`, in NumPy or in JAX."""
    return xp.where((weight == xp.round(weight)).all(), 1, weight.sum() / (weight > 0).sum())


@pytree
class RowsInMemory(Rows):
    """Rows in the memory of one device, or cut over the devices of a mesh, visited a chunk at a time.

    Attributes:
        x: The rows.
        weight: How often each counts; None for once.
        asked: Rows taken at a time, if the user has asked for a number.
        alike: The number of rows that count once, where weights only leave out the copies behind them that make all
            devices have as many rows (`on_mesh`); None where weights say more.

    >>> import jax.numpy as jnp
    >>> from jgmm.em.rows import RowsInMemory
    >>> rows = RowsInMemory(jnp.ones((10, 2)), asked=4)
    >>> float(rows.sum(lambda x, weights: (weights @ x).sum(), chunk_size=8))
    20.0
    """

    x: Float[Array, "n d"]
    weight: Float[Array, " n"] | None = None
    asked: int | None = field(default=None, metadata={"static": True})
    alike: int | None = field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.x.shape[1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.x.dtype

    @property
    def total(self) -> Any:
        if self.alike is not None:
            return self.alike
        return self.x.shape[0] if self.weight is None else self.weight.sum()

    @property
    def unit(self) -> Any:
        return 1.0 if self.weight is None or self.alike is not None else unit_of(jnp, self.weight)

    def sum(self, f: Callable[[Float[Array, "c d"], Float[Array, " c"]], S], chunk_size: int) -> S:
        if self.weight is None:
            return sum_chunks(f, self.x, self.asked or chunk_size)
        return sum_chunks(lambda part, new: f(part[0], part[1] * new), (self.x, self.weight), self.asked or chunk_size)

    def sample(self, key: PRNGKeyArray, most: int) -> tuple[Any, Any]:
        n, d = self.x.shape
        x: Any = self.x
        weight: Any = self.weight
        if n * d > most:
            index = jnp.asarray(drawn(key, self.alike or n, most // d))
            x, weight = at(x, index), None if weight is None else at(weight, index)
        if not free_axes():
            return x, weight
        x, weight = to_host(x), None if weight is None else to_host(weight)
        if weight is not None and (weight == 0).any():  # copies
            x, weight = x[weight > 0], weight[weight > 0]
        return x, None if self.alike is not None else weight

    def encoded(self, encoder: Encoder) -> "RowsInMemory":
        return replace(self, x=encoded(encoder, self.x))

    def some(self, key: PRNGKeyArray, most: int) -> "RowsInMemory":
        return self if self.x.size <= most else super().some(key, most)

    def sum_with_state(
        self, f: Callable[[Array, Array, Array], tuple[S, Array]], state: Shaped[Array, "k n"], chunk_size: int
    ) -> tuple[S, Shaped[Array, "k n"]]:
        """The same as `sum` for an f(rows, weights, state) that knows something of every row, and returns it brought up
        to date: the sum, and the new state of all rows."""
        if cut(self.x, ROWS):

            def local(rows: RowsInMemory, state: Array) -> tuple[S, Array]:
                total, state = rows.sum_with_state(f, state, chunk_size)
                return added(total), state

            return on_every(ROWS, local, (0, 1), (None, 1))(self, state)

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


@jax.jit
def encoded(encoder: Encoder, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
    """The codes of a table."""
    return encoder.encode(x)


def drawn(key: PRNGKeyArray, n: int, most: int) -> np.ndarray:
    """Which of n rows are drawn, if at most so many are to be, in their order."""
    rng = np.random.default_rng(np.ravel(jax.random.key_data(key)))
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False, shuffle=False))


def own_part(x: Any, weight: Any) -> tuple[Any, Any]:
    """What this process has of rows that all of them know."""
    ends = len(x) * np.arange(jax.process_count() + 1) // jax.process_count()
    part = slice(*ends[jax.process_index() :][:2])
    return x[part], None if weight is None else weight[part]


def on_mesh(x: np.ndarray | Array, weight: np.ndarray | Array | None = None, asked: int | None = None) -> RowsInMemory:
    """Rows as they are, or, where a mesh is set, cut over its devices: those of all processes, of which every one has
    its own, one after the other. Copies that do not count make as many on every device.

    Raises:
        InputError: For rows on several processes already that cannot be cut evenly.
    """
    parts, processes = n_parts(ROWS), jax.process_count()
    if free_axes():
        check_parts(parts)
    if parts == 1 or isinstance(x, jax.Array) and not x.is_fully_addressable:
        even = x.shape[0] % parts == 0
        check(even, f"{x.shape[0]} rows that are on several processes cannot be cut evenly into {parts} parts.")
        return RowsInMemory(jnp.asarray(x), None if weight is None else jnp.asarray(weight), asked)
    n = len(x)
    lengths = of_all(np.array([n]))
    length = padded_length(int(lengths.max()), parts // processes)
    alike = None
    if weight is None and (lengths < length).any():
        alike = int(lengths.sum()) if (lengths[:-1] == length).all() else None
        weight = np.ones(n, x.dtype)
    if n < length:
        x = np.resize(np.asarray(x), (length, x.shape[1]))
        weight = None if weight is None else np.concatenate([np.asarray(weight), np.zeros(length - n, x.dtype)])
    return RowsInMemory(spread_rows(x), None if weight is None else spread_rows(weight), asked, alike)


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

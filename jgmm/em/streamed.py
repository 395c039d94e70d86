"""Rows on disk: every pass reads them anew, the next chunk while the devices work on this one."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field, replace
from threading import Lock
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.data.streams import Stream
from jgmm.em.rows import Rows, drawn, encoded
from jgmm.encoder.base import Encoder
from jgmm.encoder.identity import Identity
from jgmm.errors import check
from jgmm.numerics.processes import check_parts, of_all
from jgmm.numerics.pytree import pytree, zeros_of
from jgmm.numerics.sharding import ROWS, added, free_axes, n_parts, on_all, on_every

# About this many numbers of a chunk, and the fewest rows.
ELEMENTS, LEAST = 2**19, 256

S = TypeVar("S", bound=Any)


class Reader:
    """A stream, cut into as many parts as a mesh cuts rows, that is read a chunk ahead."""

    def __init__(self, stream: Stream, weight: np.ndarray | None, dtype: Any):
        self.stream, self.weight, self.dtype = stream, weight, np.dtype(dtype)
        self.width = int(np.prod(stream.shape[1:]))
        # Of all processes, each of which has its own rows, or of this one alone where no mesh is set.
        self.together, number = bool(free_axes()), np.array([len(stream)])
        count = number if weight is None else weight.sum(dtype=np.float64, keepdims=True)
        self.lengths = of_all(number) if self.together else number
        self.total = float((of_all(count) if self.together else count).sum())
        whole = np.array([weight is None or bool((weight == np.round(weight)).all())])
        whole = of_all(whole) if self.together else whole
        self.unit = 1.0 if whole.all() else self.total / float(self.lengths.sum())
        self.failure: Exception | None = None
        self.pool, self.lock = ThreadPoolExecutor(1), Lock()
        self.ahead: dict[tuple[int, int, int], Future] = {}

    def per_part(self, parts: int) -> int:
        """The number of rows of every part, of so many parts of the rows of all processes."""
        return -(-int(self.lengths.max()) * len(self.lengths) // parts)

    def read(self, start: int, stop: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and how often they count; and as many that do not as make up the length."""
        n = max(stop - start, 0)
        if n == length:
            often = np.ones(n, self.dtype) if self.weight is None else self.weight[start:stop].astype(self.dtype)
            return self.stream.read(start, stop).reshape(n, -1), often
        rows, weight = np.zeros((length, self.width), self.stream.dtype), np.zeros(length, self.dtype)
        if n > 0:
            rows[:n] = self.stream.read(start, stop).reshape(n, -1)
            weight[:n] = 1 if self.weight is None else self.weight[start:stop]
        return rows, weight

    def chunk(self, part: int, i: int, parts: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunk i of a part; the next one of that part is read meanwhile."""
        each = self.per_part(parts)
        before = jax.process_index() * (parts // len(self.lengths)) if self.together else 0
        first = (part - before) * each
        end = min(first + each, len(self.stream))
        start = first + i * length
        after = first if start + length >= end else start + length
        with self.lock:
            waiting = self.ahead.pop((start, end, length), None)
            found = (lambda: self.read(start, min(start + length, end), length)) if waiting is None else waiting.result
            if len(self.ahead) > parts:  # of a pass in other chunks
                self.ahead.clear()
            if (after, end, length) != (start, end, length):
                one = after, min(after + length, end), length
                self.ahead[(after, end, length)] = self.pool.submit(self.read, *one)
        return found()


@pytree
class RowsOnDisk(Rows):
    """The codes of rows on disk.

    Attributes:
        encoder: Between what is on disk and the rows.
        reader: What reads.
        asked: Rows taken at a time, if the user has asked for a number.
    """

    encoder: Encoder
    reader: Reader = field(metadata={"static": True})
    asked: int | None = field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.reader.lengths.sum()), self.encoder.n_codes

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(self.reader.dtype)

    @property
    def total(self) -> Any:
        return self.reader.total

    @property
    def unit(self) -> Any:
        return self.reader.unit

    def sum(self, f: Callable[[Float[Array, "c d"], Float[Array, " c"]], S], chunk_size: int) -> S:
        parts, width = n_parts(ROWS), self.reader.width
        each = self.reader.per_part(parts)
        c = min(each, self.asked or min(chunk_size, max(LEAST, ELEMENTS // width)))

        def fetch(part: Int[Array, ""], i: Int[Array, ""]) -> tuple[Array, Array]:
            shapes = (
                jax.ShapeDtypeStruct((c, width), self.reader.stream.dtype),
                jax.ShapeDtypeStruct((c,), self.dtype),
            )

            def read(part: Any, i: Any) -> tuple[np.ndarray, np.ndarray]:
                try:
                    return self.reader.chunk(int(part), int(i), parts, c)
                except Exception as error:
                    self.reader.failure = error  # JAX makes another one of it
                    raise

            return jax.pure_callback(read, shapes, part, i)

        def of_part(encoder: Encoder) -> S:
            # Devices that have other components of the same rows read them as well.
            get = on_all(fetch)
            part = jax.lax.axis_index(ROWS) if parts > 1 else jnp.zeros((), jnp.int32)

            def chunk(i: Array, total: S) -> S:
                rows, weight = get(part, i)
                return total + f(encoder.encode(rows.astype(self.dtype)), weight)

            one = jnp.zeros((c, width), self.dtype)
            zero = zeros_of(lambda: f(encoder.encode(one), one[:, 0]))
            return jax.lax.fori_loop(0, -(-each // c), chunk, zero)

        if parts == 1:
            return of_part(self.encoder)
        return on_every(ROWS, lambda encoder: added(of_part(encoder)), (None,), None)(self.encoder)

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:
            if self.reader.failure is None:
                raise
            raise self.reader.failure from None

    def encoded(self, encoder: Encoder) -> "RowsOnDisk":
        check(isinstance(self.encoder, Identity), "these rows are codes already.")
        return replace(self, encoder=encoder)

    def sample(self, key: PRNGKeyArray, most: int) -> tuple[np.ndarray, np.ndarray | None]:
        reader = self.reader
        n, size = len(reader.stream), max(LEAST, ELEMENTS // reader.width)
        chosen = drawn(key, n, most // self.encoder.n_codes // len(reader.lengths))
        found, done = np.empty((len(chosen), self.encoder.n_codes), reader.dtype), 0
        for start in range(0, n, size):
            here = chosen[(chosen >= start) & (chosen < start + size)] - start
            if here.size:
                x, _ = reader.read(start, min(start + size, n), size)
                found[done : done + len(here)] = np.asarray(encoded(self.encoder, x.astype(reader.dtype)))[here]
                done += len(here)
        weight = None if reader.weight is None else reader.weight[chosen].astype(reader.dtype)
        if not reader.together:
            return found, weight
        return of_all(found), None if weight is None else of_all(weight)


def on_disk(stream: Stream, weight: np.ndarray | None, dtype: Any, asked: int | None = None) -> RowsOnDisk:
    """The rows of a stream as they are. Raises InputError for a mesh that processes cannot share."""
    if free_axes():
        check_parts(n_parts(ROWS))
    reader = Reader(stream, weight, dtype)
    return RowsOnDisk(Identity(reader.width), reader, asked)

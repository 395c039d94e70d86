"""What users give to fit a mixture to, checked: a table in memory, on many devices, or on disk."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jgmm.data.streams import Chosen, Stream, stream
from jgmm.em.loop import SOME, SOME_STREAM
from jgmm.em.rows import Rows, RowsInMemory, on_mesh
from jgmm.em.steps import ROWS
from jgmm.em.streamed import on_disk
from jgmm.encoder.base import Encoder, encode_with_residual
from jgmm.errors import InputError, check
from jgmm.numerics.arguments import as_floats, is_traced
from jgmm.numerics.sharding import free_axes
from jgmm.numerics.typing import ArrayLike

# The share of a feature's spread that rounding to float32 may take.
LOST = 0.01


@dataclass(frozen=True)
class Table:
    """What a mixture is fitted to.

    Attributes:
        few: The rows, or, where they are cut over devices or on disk, some of them.
        weight: How often each of these counts; None for once.
        gaps: Where values are missing, which have been filled in; None for nowhere.
        rows: All of them, where these are cut over devices or on disk, or else None.
        asked: Rows taken at a time, if the user has asked for a number.
    """

    few: Float[Array, "n d"]
    weight: Float[Array, " n"] | None
    gaps: Bool[Array, "n d"] | None
    rows: Rows | None
    asked: int | None

    @classmethod
    def of(cls, key: PRNGKeyArray, x: Any, sample_weight: Any, marginal: bool, asked: int | None) -> "Table":
        """The data that a user gives, checked. Raises InputError as `fit_em`."""
        if isinstance(x, Stream | np.memmap):
            check(not marginal, "missing values are found in rows in memory: leave missing out, or load the rows.")
            return cls._of_rows(key, _streamed(stream(x), sample_weight, asked), asked)
        rows = as_rows(x, gaps=marginal)
        rows, weight = weighed(rows, sample_weight)
        if free_axes():
            check(not marginal, "missing values are those of rows on one device: leave missing, or the mesh, out.")
            return cls._of_rows(key, on_mesh(rows, weight, asked), asked)
        rows, gaps = _without_gaps(rows) if marginal else (rows, None)
        return cls(rows, weight, gaps, None, asked)

    @classmethod
    def _of_rows(cls, key: PRNGKeyArray, rows: Rows, asked: int | None) -> "Table":
        few, weight = rows.sample(jax.random.fold_in(key, SOME_STREAM), SOME)
        return cls(as_rows(few), None if weight is None else jnp.asarray(weight), None, rows, asked)

    def codes(self, encoder: Encoder) -> tuple[Rows, float]:
        """The codes of all rows, and what to add to their mean log-density for that of x, nats a row."""
        volume, total = encoder.log_det() if encoder.has_density else 0.0, 0.0
        rows = RowsInMemory(self.few, self.weight, self.asked) if self.rows is None else self.rows
        if encoder.has_density and encoder.n_residual > 0:
            total = float(_sum_of_residuals(encoder, rows))
        return rows.encoded(encoder), float(volume) + total / float(rows.total)


@jax.jit
def _sum_of_residuals(encoder: Encoder, rows: Rows) -> Float[Array, ""]:
    def chunk(x: Array, weight: Array) -> Array:
        return jnp.where(weight > 0, weight * encode_with_residual(encoder, x)[1], 0).sum()

    return rows.sum(chunk, ROWS)


def _streamed(x: Stream, sample_weight: ArrayLike | None, asked: int | None) -> Rows:
    """The rows of a stream, checked in one pass. Raises InputError as `fit_em`."""
    check(x.ndim == 2 and min(x.shape) > 0, f"x must be a table of shape (n, d), got {x.shape}.")
    real = np.issubdtype(x.dtype, np.number) and not np.issubdtype(x.dtype, np.complexfloating)
    check(real or x.dtype == bool, f"x must be numbers, got {x.dtype}.")
    dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)
    weight = None
    if sample_weight is not None:
        weight = np.asarray(sample_weight, dtype)
        check(weight.shape == x.shape[:1], f"sample_weight must have shape {x.shape[:1]}, got {weight.shape}.")
        check(bool((weight >= 0).all()) and bool((weight > 0).any()), "sample_weight must be from 0, and not all 0.")
        check(bool(np.isfinite(weight.sum(dtype=np.float64))), "sample_weight must be finite.")
        counted = np.flatnonzero(weight > 0)
        x, weight = (x, weight) if len(counted) == len(x) else (Chosen(x, counted), weight[counted])
    for i, piece in enumerate(x.pieces()):
        check(bool(np.isfinite(piece).all()), "x must be finite, it has NaN or infinite values.")
        if i == 0:
            _check_digits(piece, piece.astype(dtype))
    return on_disk(x, weight, dtype, asked)


def weighed(
    rows: Float[Array, "n d"], sample_weight: ArrayLike | None
) -> tuple[Float[Array, "m d"], Float[Array, " m"] | None]:
    """The rows that count, and how often; None for once each. Raises InputError for what are no weights."""
    if sample_weight is None:
        return rows, None
    weight = as_floats("sample_weight", sample_weight, rows.dtype).astype(rows.dtype)
    check(weight.shape == rows.shape[:1], f"sample_weight must have shape {rows.shape[:1]}, got {weight.shape}.")
    check(not is_traced(weight), "sample_weight must be known: rows that do not count are left out.")
    check(bool((weight >= 0).all()), "sample_weight must not be negative.")
    counted = np.asarray(weight > 0)
    check(bool(counted.any()), "sample_weight is zero for all rows: there is nothing to fit.")
    check(bool(jnp.isfinite(weight.sum())), f"the sum of sample_weight is too large for {weight.dtype}: scale it down.")
    return (rows, weight) if counted.all() else (rows[counted], weight[counted])


def _without_gaps(rows: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Bool[Array, "n d"] | None]:
    """The rows with the mean of a feature where it is missing, and where that is; None for nowhere."""
    gaps = jnp.isnan(rows)
    return (jnp.where(gaps, jnp.nanmean(rows, axis=0)[None], rows), gaps) if bool(gaps.any()) else (rows, None)


def as_rows(x: ArrayLike, gaps: bool = False) -> Float[Array, "n d"]:
    """A table of finite numbers, or of gaps (NaN) besides, in float32, or in float64 where x is and JAX has it enabled.

    Raises:
        InputError: For anything else, and for features so far from the origin that float32 loses their digits.
    """
    rows = as_floats("x", x, finite=not gaps)
    check(not gaps or not bool(jnp.isinf(rows).any()), "x contains infinite values: expected numbers, or NaN.")
    check(rows.ndim == 2 and rows.shape[1] > 0, f"x must be a table of shape (n, d), got {rows.shape}.")
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if not is_traced(rows) and rows.shape[0] > 0:
        given, taken = np.asarray(x), np.asarray(rows)
        if gaps:
            empty = np.flatnonzero(np.isnan(taken).all(axis=0))
            check(empty.size == 0, f"feature {empty[:1].sum()} is missing in every row: leave it out.")
            given, taken = (np.where(np.isnan(a), np.nanmin(a, axis=0), a) for a in (given, taken))
        _check_digits(given, taken)
    return rows


def _check_digits(x: np.ndarray, rows: np.ndarray) -> None:
    if x.dtype == rows.dtype or x.dtype.itemsize < 4:
        return
    lost, spread = np.sqrt(((x - rows.astype(np.float64)) ** 2).mean(axis=0)), x.std(axis=0, dtype=np.float64)
    far = np.flatnonzero((lost > LOST * spread) & (x != x[0]).any(axis=0))  # a constant has no digits to lose
    if far.size:
        at, mean = far[0], x[:, far[0]].mean(dtype=np.float64)
        raise InputError(
            f"feature {at} is {mean:.6g} ± {spread[at]:.3g}: {rows.dtype} has too few digits to tell its values apart. "
            "Subtract its mean first, or call jax.config.update('jax_enable_x64', True)."
        )

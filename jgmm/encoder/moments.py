"""Sums over rows of products, which lose no digits on any device.

    Σ_n y_n y_nᵀ,    y_n = f(x_n)

On a CPU NumPy forms them in the precision of y and adds them in float64. GPUs and TPUs, whose float64 is slow or none,
take every number apart into four of 8 bits in units of a power of two,

    y = s (a_0 + 2⁻⁸ a_1 + 2⁻¹⁶ a_2 + 2⁻²⁴ a_3),    |a_i| ≤ 2⁷ integers,    2⁷ s > max |y| of the feature

whose products their matrix units form and add up exactly in the fastest precision that they have: 2⁸ products of 14
bits are integers below 2²⁴, which float32 has all of (Ozaki, Ogita, Oishi and Rump, Error-free transformations of
matrix multiplication by using fast routines of matrix multiplication, Numerical Algorithms 59, 2012). What the chunks
come to is added in two float32 numbers each (`jgmm.numerics.summation`), 48 bits. Every device adds up its own rows;
the host adds what the devices and the processes have.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, Sharding
from jaxtyping import Array, Float

from jgmm.numerics.processes import over_processes
from jgmm.numerics.sharding import ROWS, n_parts, on_every, over_rows, padded_length
from jgmm.numerics.summation import CompensatedSum

# Rows taken at a time, and rows whose products float32 can add exactly.
PIECE, CHUNK = 4096, 256
BITS, SLICES = 8, 4

# (numpy or jax.numpy, rows, how often each counts or None, whatever the rows share) -> matrices y, a row for each row.
Factors = Callable[[Any, Any, Any, Any], list[Any]]
# What a device has added up so far, one for each of these matrices.
Sums = list[CompensatedSum]


def exact_on_devices(dtype: np.dtype) -> bool:
    """Whether the devices add up rows of this type: not CPUs, nor where rows have more digits than float32."""
    return jax.default_backend() != "cpu" and np.can_cast(dtype, np.float32)


def products(f: Factors, shared: Any, x: Any, weight: np.ndarray | None) -> list[np.ndarray]:
    """Σ_n y_n y_nᵀ over the rows of all processes, in float64, of every matrix y that f makes of some rows x.

    Args:
        f: A function of the module that calls; it may use what NumPy and JAX have alike.
        shared: A tree of arrays for f.
        x: Rows of numbers, an array or a stream [N, ...]; f gets them flat.
        weight: How often each row counts; None for once. f must make zeros of rows that do not count.
    """
    take = _on_devices if exact_on_devices(x.dtype) else _on_host
    return [over_processes(total) for total in take(f, shared, x, weight)]


def pieces(x: Any, weight: np.ndarray | None, size: int = PIECE) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Some rows at a time, flat, and how often they count."""
    for start in range(0, len(x), size):
        rows = np.asarray(x[start : start + size])
        yield rows.reshape(len(rows), -1), None if weight is None else weight[start : start + size]


def _on_host(f: Factors, shared: Any, x: Any, weight: np.ndarray | None) -> list[np.ndarray]:
    totals: list[Any] = []
    for rows, often in pieces(x, weight):
        found = [y.T @ y for y in f(np, rows, often, shared)]
        totals = totals or [np.zeros_like(part, np.float64) for part in found]
        for total, part in zip(totals, found, strict=True):
            total += part
    return totals


def _on_devices(f: Factors, shared: Any, x: Any, weight: np.ndarray | None) -> list[np.ndarray]:
    shared = jax.tree.map(_single, shared)
    with _over_own_rows() as place, jax.default_matmul_precision("highest"):
        size = padded_length(min(len(x), PIECE), n_parts(ROWS) * CHUNK)
        totals: Sums = []
        for rows, often in pieces(x, weight, size):
            counts = np.ones(len(rows), np.float32) if often is None else often.astype(np.float32)
            missing = size - len(rows)
            piece = jax.device_put((np.pad(rows, ((0, missing), (0, 0))), np.pad(counts, (0, missing))), place)
            totals = totals or _nothing(f, shared, piece, place)
            totals = add_products(f, shared, *piece, totals)
        return [sum(np.asarray(t, np.float64).sum(axis=0) for t in (total.high, total.low)) for total in totals]


def _nothing(f: Factors, shared: Any, piece: tuple[Array, Array], place: Sharding | None) -> Sums:
    """Sums of nothing on every device [devices, q, q]."""
    shapes = [(n_parts(ROWS), y.shape[1], y.shape[1]) for y in jax.eval_shape(partial(f, jnp), *piece, shared)]
    return [CompensatedSum(*(jnp.zeros(shape, jnp.float32, device=place) for _ in range(2))) for shape in shapes]


@contextmanager
def _over_own_rows() -> Iterator[Sharding | None]:
    """In this context rows are cut over all devices of this process in the mesh at hand; it says how they lie there."""
    at_hand = jax.sharding.get_mesh()
    if at_hand.empty:
        yield None
        return
    devices = Mesh(np.array(at_hand.local_devices), (ROWS,), axis_types=(AxisType.Auto,))
    with jax.set_mesh(devices):
        yield over_rows(devices)


def _single(leaf: Any) -> Array:
    kind = jnp.int32 if np.issubdtype(np.result_type(leaf), np.integer) else jnp.float32
    return jnp.asarray(leaf, kind)


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def add_products(f: Factors, shared: Any, rows: Array, weight: Array, totals: Sums) -> Sums:
    """What every device has, and the products of its rows besides."""

    def part(shared: Any, rows: Array, weight: Array, totals: Sums) -> Sums:
        def chunk(i: Array, totals: Sums) -> Sums:
            some, often = (jax.lax.dynamic_slice_in_dim(a, i * CHUNK, CHUNK) for a in (rows, weight))
            return [total + exact_products(y) for total, y in zip(totals, f(jnp, some, often, shared), strict=True)]

        totals = jax.tree.map(lambda leaf: leaf[0], totals)
        totals = jax.lax.fori_loop(0, rows.shape[0] // CHUNK, chunk, totals)
        return jax.tree.map(lambda leaf: leaf[None], totals)

    run = part if n_parts(ROWS) == 1 else on_every(ROWS, part, (None, 0, 0, 0), 0)
    return run(shared, rows, weight, totals)


def exact_products(y: Float[Array, "c q"]) -> CompensatedSum:
    """Σ_n y_n y_nᵀ of at most CHUNK rows in float32, to 48 bits, for features that do not differ in size by more than
    float32 can say of their squares."""
    bits = (
        jax.lax.bitcast_convert_type(jnp.abs(y).max(axis=0, keepdims=True), jnp.int32) & 0x7F800000
    )  # of the exponent alone
    power, inverse = (jax.lax.bitcast_convert_type(b, jnp.float32) for b in (bits, (254 << 23) - bits))
    rest = y * inverse * 2.0 ** (BITS - 2)
    slices = []
    for _ in range(SLICES):
        slices.append(jnp.round(rest))
        rest = (rest - slices[-1]) * 2.0**BITS
    unit = power * 2.0 ** (2 - BITS)
    units = unit.T * unit
    total = CompensatedSum(jnp.zeros_like(units), jnp.zeros_like(units))
    for i, j in reversed(list(combinations_with_replacement(range(SLICES), 2))):
        found = jnp.matmul(slices[i].T, slices[j], precision="default")
        found = found if i == j else found + found.T
        total += CompensatedSum(found * (units * 2.0 ** (-BITS * (i + j))), jnp.zeros_like(units))
    return total

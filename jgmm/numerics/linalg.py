"""Matrix products in an explicit precision.

JAX's own default is TF32 on recent GPUs and bfloat16 on TPUs, which breaks EM silently: log-densities of
images err by tenths of a nat and second moments turn indefinite. Here the default is the highest precision of
the dtype; `with jax.default_matmul_precision("high"):` around a call (or its tracing) lowers it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.numerics.sharding import COMPONENTS, cut, on_every

BLOCK = 8
SUBSPACE_ITERATIONS = 4


def matmul(a: Array, b: Array) -> Array:
    """a @ b in the precision of the surrounding `jax.default_matmul_precision`, by default the highest."""
    return jnp.matmul(a, b, precision=_precision())


def einsum(subscripts: str, *arrays: Array) -> Array:
    """`jnp.einsum` in the precision of `matmul`."""
    return jnp.einsum(subscripts, *arrays, precision=_precision())


def _precision() -> str:
    config: Any = jax.config  # its options are attributes made at run time
    return config.jax_default_matmul_precision or "highest"


def principal_directions(key: PRNGKeyArray, x: Float[Array, "n d"], q: int) -> Float[Array, "d q"]:
    """Orthonormal columns that span nearly what the q leading right singular vectors of x do, by subspace iteration
    from a random start (Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithm 4.4)."""

    def improve(_: Array, span: Array) -> Array:
        return jnp.linalg.qr(matmul(x.T, matmul(x, span)))[0]

    start = jnp.linalg.qr(jax.random.normal(key, (x.shape[1], q), x.dtype))[0]
    return jax.lax.fori_loop(0, SUBSPACE_ITERATIONS, improve, start)


def grouped_matvec(
    matrices: Float[Array, "k d d"], group: Int[Array, " n"], x: Float[Array, "n d"]
) -> Float[Array, "n d"]:
    """y_n = A_{group_n} x_n, never holding an (n, d, d) array.

    Rows are sorted by group and cut into blocks of a single group each, at most n / BLOCK + k of them; each
    block is one small matrix product, so a matrix is read once a block and not once a row.
    """
    n, _ = x.shape
    if n == 0:
        return x
    if cut(matrices, COMPONENTS):
        return on_every(COMPONENTS, _own_groups, (0, None, None), None)(matrices, group, x)
    k = matrices.shape[0]
    order = jnp.argsort(group)
    counts = jnp.zeros(k, jnp.int32).at[group].add(1)
    starts = jnp.cumsum(counts) - counts
    blocks = -(-counts // BLOCK)
    last = jnp.cumsum(blocks)
    n_blocks = min(n, n // BLOCK + k)

    def block(y: Array, b: Array) -> tuple[Array, None]:
        g = jnp.minimum(jnp.searchsorted(last, b, side="right"), k - 1)
        rows = starts[g] + BLOCK * (b - (last[g] - blocks[g])) + jnp.arange(BLOCK)
        rows = jnp.where((rows < starts[g] + counts[g]) & (b < last[-1]), rows, n)
        target = order.at[rows].get(mode="fill", fill_value=n)
        product = matmul(x.at[target].get(mode="fill", fill_value=0), matrices[g].T)
        return y.at[target].set(product, mode="drop"), None

    return jax.lax.scan(block, jnp.zeros_like(x), jnp.arange(n_blocks))[0]


def _own_groups(matrices: Array, group: Array, x: Array) -> Array:
    """`grouped_matvec` of all devices, each of which has some of the matrices."""
    k = matrices.shape[0]
    here = group - jax.lax.axis_index(COMPONENTS) * k
    mine = ((here >= 0) & (here < k))[:, None]
    return jax.lax.psum(jnp.where(mine, grouped_matvec(matrices, jnp.clip(here, 0, k - 1), x), 0), COMPONENTS)


def lower_factor(rows: Float[Array, "k a d"]) -> Float[Array, "k a a"]:
    """The lower-triangular factor with positive diagonal of rows rowsᵀ."""
    upper = jnp.linalg.qr(rows.swapaxes(1, 2), mode="r")
    sign = jnp.where(jnp.diagonal(upper, axis1=1, axis2=2) < 0, -1, 1).astype(rows.dtype)
    return (upper * sign[:, :, None]).swapaxes(1, 2)

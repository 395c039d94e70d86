"""Where EM starts: k centers among the data, by k-means, k-means++ seeding alone, or at random.

Distances are Σ_d metric_d (x_d − c_d)². For whitened codes the command passes the principal variances as metric,
so that clusters are those of the pixels: in whitened codes the 3,000 faint directions of an image outvote the few
that make clusters, and EM ends in a worse optimum of CIFAR-10.

An initializer is a function centers(key, x, k, metric) -> [k, d].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.em.rows import Largest, RowsInMemory
from jgmm.errors import check
from jgmm.numerics.chunking import ELEMENTS, map_chunks
from jgmm.numerics.distances import first_moments, squared_distances
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import Additive, pytree
from jgmm.registry import INITIALIZERS

MAX_LLOYD = 25
LLOYD_TOLERANCE = 1e-3


def centers(
    key: PRNGKeyArray, x: Float[Array, "n d"], k: int, init: Any = "kmeans", metric: Array | None = None
) -> Float[Array, "k d"]:
    """k starting centers by an initializer: a name in `jgmm.registry.INITIALIZERS`, or a function.

    Raises:
        InputError: For an unknown name, and for a function that returns another shape.
    """
    metric = jnp.ones(x.shape[1], x.dtype) if metric is None else metric
    found = INITIALIZERS.resolve(init)(key, x, k, metric)
    shape = (k, x.shape[1])
    check(jnp.shape(found) == shape, f"init must return centers of shape {shape}, got {jnp.shape(found)}.")
    return jnp.asarray(found, x.dtype)


def random(key: PRNGKeyArray, x: Float[Array, "n d"], k: int, metric: Float[Array, " d"]) -> Array:
    """k different rows, uniformly."""
    return x[jax.random.choice(key, x.shape[0], (k,), replace=False)]


@partial(jax.jit, static_argnames="k")
def kmeans_plusplus(key: PRNGKeyArray, x: Float[Array, "n d"], k: int, metric: Float[Array, " d"]) -> Array:
    """k rows, each drawn with probability proportional to its squared distance to the nearest one before.

    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding (2007).
    """
    n = x.shape[0]
    keys = jax.random.split(key, k)
    middle = x.mean(axis=0, keepdims=True)
    norms = map_chunks(lambda rows: jnp.sum(metric[None] * (rows - middle) ** 2, axis=1), x)

    def to_row(i: Array) -> Float[Array, " n"]:
        # Expanded, so that one pass over x is one matrix-vector product: seeding does not need the last digits.
        direction = metric * (x[i] - middle[0])
        return jnp.maximum(norms + norms[i] - 2 * (matmul(x, direction) - matmul(middle[0], direction)), 0)

    def draw(state: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
        last, nearest = state
        nearest = jnp.minimum(nearest, to_row(last)).at[last].set(0)
        # Where every row coincides with a center there is nothing to choose by: any row will do.
        log_odds = jnp.where(nearest.max() > 0, jnp.log(nearest), jnp.zeros(n, x.dtype))
        i = jax.random.categorical(key, log_odds)
        return (i, nearest), i

    first = jax.random.randint(keys[0], (), 0, n)
    _, rest = jax.lax.scan(draw, (first, jnp.full(n, jnp.inf, x.dtype)), keys[1:])
    return x[jnp.concatenate([first[None], rest.astype(first.dtype)])]


@pytree
class _Clusters(Additive):
    """Sums over rows: how many each center has, how far off it they lie, and the rows farthest from theirs."""

    counts: Float[Array, " k"]
    first: Float[Array, "k d"]
    inertia: Float[Array, ""]
    farthest: Largest


@partial(jax.jit, static_argnames="k")
def kmeans(key: PRNGKeyArray, x: Float[Array, "n d"], k: int, metric: Float[Array, " d"]) -> Array:
    """Lloyd's algorithm from k-means++ seeds; a cluster left empty moves to the row farthest from its center.

    Stops after MAX_LLOYD rounds, or when the sum of squared distances falls by less than LLOYD_TOLERANCE of it.
    """
    rows = RowsInMemory(x)

    def improve(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        rounds, centers, _, inertia = state
        found = _assigned(rows, centers, metric)
        means = centers + found.first / jnp.maximum(found.counts, 1)[:, None]
        # The j-th empty cluster takes the j-th farthest row.
        empty = found.counts == 0
        farthest, _ = found.farthest.nth(jnp.cumsum(empty) - 1)
        means = jnp.where(empty[:, None], farthest, means)
        return rounds + 1, means, inertia, found.inertia / x.shape[0]

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        rounds, _, before, now = state
        return (rounds < 2) | ((rounds < MAX_LLOYD) & (before - now > LLOYD_TOLERANCE * now))

    infinite = jnp.array(jnp.inf, x.dtype)
    seeds = kmeans_plusplus(key, x, k, metric)
    return jax.lax.while_loop(unfinished, improve, (jnp.array(0), seeds, infinite, infinite))[1]


def _assigned(rows: RowsInMemory, centers: Float[Array, "k d"], metric: Float[Array, " d"]) -> _Clusters:
    k, d = centers.shape
    label_of = nearest(centers, metric)

    def chunk(x: Array, weight: Array) -> _Clusters:
        label, distance = label_of(x)
        r = jax.nn.one_hot(label, k, dtype=x.dtype) * weight[:, None]
        farthest = Largest.of(k, distance, weight, x, label)
        return _Clusters(r.sum(axis=0), first_moments(x, r, centers), matmul(weight, distance), farthest)

    return rows.sum(chunk, max(2048, min(8192, ELEMENTS // d)))


def nearest(centers: Float[Array, "k d"], metric: Float[Array, " d"]) -> Any:
    """x -> the nearest center of every row, and the squared distance to it."""
    distances = squared_distances(centers, metric[None])

    def label_of(x: Float[Array, "c d"]) -> tuple[Int[Array, " c"], Float[Array, " c"]]:
        d = distances(x)
        return jnp.argmin(d, axis=1), jnp.min(d, axis=1)

    return label_of

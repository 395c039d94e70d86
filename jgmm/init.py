"""Where EM starts: k centres among the data, by k-means, k-means++ seeding alone, or at random.

Distances are Σ_d metric_d (x_d − c_d)². For whitened codes the command passes the principal variances as metric,
so that clusters are those of the pixels: in whitened codes the 3,000 faint directions of an image outvote the few
that make clusters, and EM ends in a worse optimum of CIFAR-10.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.centred import first_moments, squared_distances
from jgmm.chunks import map_chunks, sum_chunks
from jgmm.products import matmul
from jgmm.tables import INITIALISERS

MAX_LLOYD = 25
LLOYD_TOLERANCE = 1e-3


def centres(
    key: PRNGKeyArray, x: Float[Array, "n d"], k: int, method: str = "kmeans", metric: Array | None = None
) -> Float[Array, "k d"]:
    """k starting centres by the initialiser `method` (`jgmm.tables.INITIALISERS`)."""
    metric = jnp.ones(x.shape[1], x.dtype) if metric is None else metric
    return INITIALISERS[method](key, x, k, metric)


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
        # Where every row coincides with a centre there is nothing to choose by: any row will do.
        log_odds = jnp.where(nearest.max() > 0, jnp.log(nearest), jnp.zeros(n, x.dtype))
        i = jax.random.categorical(key, log_odds)
        return (i, nearest), i

    first = jax.random.randint(keys[0], (), 0, n)
    _, rest = jax.lax.scan(draw, (first, jnp.full(n, jnp.inf, x.dtype)), keys[1:])
    return x[jnp.concatenate([first[None], rest.astype(first.dtype)])]


@partial(jax.jit, static_argnames="k")
def kmeans(key: PRNGKeyArray, x: Float[Array, "n d"], k: int, metric: Float[Array, " d"]) -> Array:
    """Lloyd's algorithm from k-means++ seeds; a cluster left empty moves to the row farthest from its centre.

    Stops after MAX_LLOYD rounds, or when the sum of squared distances falls by less than LLOYD_TOLERANCE of it.
    """

    def improve(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        rounds, centres, _, inertia = state
        label, distance = nearest(x, centres, metric)
        counts, means = cluster_means(x, label, centres)
        # The j-th empty cluster takes the j-th farthest row.
        _, farthest = jax.lax.top_k(distance, k)
        empty = counts == 0
        order = jnp.cumsum(empty) - 1
        means = jnp.where(empty[:, None], x[farthest[jnp.maximum(order, 0)]], means)
        return rounds + 1, means, inertia, distance.mean()

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        rounds, _, before, now = state
        return (rounds < 2) | ((rounds < MAX_LLOYD) & (before - now > LLOYD_TOLERANCE * now))

    infinite = jnp.array(jnp.inf, x.dtype)
    seeds = kmeans_plusplus(key, x, k, metric)
    return jax.lax.while_loop(unfinished, improve, (jnp.array(0), seeds, infinite, infinite))[1]


def nearest(
    x: Float[Array, "n d"], centres: Float[Array, "k d"], metric: Float[Array, " d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The nearest centre of every row, and the squared distance to it."""
    distances = squared_distances(centres, metric[None])

    def chunk(rows: Float[Array, "c d"]) -> tuple[Array, Array]:
        d = distances(rows)
        return jnp.argmin(d, axis=1), jnp.min(d, axis=1)

    return map_chunks(chunk, x)


def cluster_means(
    x: Float[Array, "n d"], label: Int[Array, " n"], centres: Float[Array, "k d"]
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """The number of rows with each label and their mean; where there is none, the centre given."""

    def chunk(rows: tuple[Array, Array], weight: Array) -> Array:
        points, labels = rows
        r = jax.nn.one_hot(labels, centres.shape[0], dtype=points.dtype) * weight[:, None]
        return jnp.concatenate([r.sum(axis=0)[:, None], first_moments(points, r, centres)], axis=1)

    total = sum_chunks(chunk, (x, label))
    counts = total[:, 0]
    return counts, centres + total[:, 1:] / jnp.maximum(counts, 1)[:, None]

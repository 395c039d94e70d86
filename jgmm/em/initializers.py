"""Where EM starts: the cluster of every row, by k-means of the rows or of their log-energies, by k-means++ seeding
alone, or from random rows.

Distances are Σ_d metric_d (x_d − c_d)². For whitened codes the command passes the principal variances as metric,
so that clusters are those of the pixels: in whitened codes the 3,000 faint directions of an image outvote the few
that make clusters, and EM ends in a worse optimum of CIFAR-10.

An initializer is a function (key, x, k, metric) that returns k centers [k, d], of which every row goes to the nearest,
or the cluster of every row [n]. One with a parameter `weight` is told how often every row counts [n], if not once.
"""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.em.rows import Largest, RowsInMemory
from jgmm.errors import check
from jgmm.numerics.arguments import is_traced
from jgmm.numerics.chunking import ELEMENTS, map_chunks
from jgmm.numerics.distances import first_moments, squared_distances
from jgmm.numerics.linalg import matmul, principal_directions
from jgmm.numerics.pytree import Additive, pytree
from jgmm.numerics.sharding import at, everywhere
from jgmm.registry import INITIALIZERS

# Rows taken at a time.
ROWS = 8192
MAX_LLOYD = 25
LLOYD_TOLERANCE = 1e-3
# Log-energies: what is added to squares of standardized features, the principal components that are kept, and the rows
# that those are found in.
LEAST_ENERGY, ENERGY_DIRECTIONS, ENERGY_ROWS = 1e-3, 32, 6000


def beginning(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    k: int,
    init: Any = "kmeans",
    metric: Array | None = None,
    weight: Array | None = None,
    alike: int | None = None,
) -> Array:
    """What an initializer, a name in `jgmm.registry.INITIALIZERS` or a function, finds: centers, or clusters. `weight`
    and `alike` are those of `jgmm.em.rows.RowsInMemory`.

    Raises:
        InputError: For an unknown name, and for a function that returns neither.
    """
    metric = jnp.ones(x.shape[1], x.dtype) if metric is None else metric
    function = INITIALIZERS.resolve(init)
    known, takes = {"weight": weight, "alike": alike}, inspect.signature(function).parameters
    told = {name: value for name, value in known.items() if value is not None and name in takes}
    found = jnp.asarray(function(key, x, k, metric, **told))
    n, d = x.shape
    if found.shape == (n,) and jnp.issubdtype(found.dtype, jnp.integer):
        inside = is_traced(found) or bool(((found >= 0) & (found < k)).all())
        check(inside, f"init must return clusters from 0 to {k - 1}.")
        return found
    check(
        found.shape == (k, d),
        f"init must return centers of shape {(k, d)}, or the cluster of each of the {n} rows, got {found.shape}.",
    )
    return found.astype(x.dtype)


def centers(
    key: PRNGKeyArray, x: Float[Array, "n d"], k: int, init: Any = "kmeans", metric: Array | None = None
) -> Float[Array, "k d"]:
    """k starting centers by an initializer; the means of its clusters where it finds those. Raises InputError as
    `beginning`."""
    found = beginning(key, x, k, init, metric)
    return found if found.ndim == 2 else cluster_means(RowsInMemory(x), found, k=k)


@partial(jax.jit, static_argnames="k")
def cluster_means(rows: RowsInMemory, clusters: Int[Array, " n"], *, k: int) -> Float[Array, "k d"]:
    """The mean of the rows of every cluster; of all rows for a cluster without any."""

    def chunk(x: Array, weight: Array, cluster: Array) -> tuple[_Sums, Array]:
        r = jax.nn.one_hot(cluster[0], k, dtype=x.dtype) * weight[:, None]
        return _Sums(r.sum(axis=0), matmul(r.T, x)), cluster

    sums, _ = rows.sum_with_state(chunk, clusters[None], ROWS)
    counts = sums.counts[:, None]
    return jnp.where(counts > 0, sums.first, sums.first.sum(axis=0)) / jnp.where(counts > 0, counts, counts.sum())


def random(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    k: int,
    metric: Float[Array, " d"],
    weight: Array | None = None,
    alike: int | None = None,
) -> Array:
    """k different rows, each as likely as it counts often."""
    return at(x, _drawn(key, x.shape[0], (k,), weight, alike, replace=False))


def _drawn(
    key: PRNGKeyArray, n: int, shape: tuple[int, ...], weight: Array | None, alike: int | None, replace: bool = True
) -> Array:
    """Which of n rows are drawn, each as likely as it counts often."""
    if weight is None or alike is not None:
        return jax.random.choice(key, alike or n, shape, replace=replace)
    return jax.random.choice(key, n, shape, replace=replace, p=weight / weight.sum())


def mean_and_variance(x: Float[Array, "n d"], weight: Array | None = None) -> tuple[Array, Array]:
    """Those of every feature, of rows that count so often."""
    if weight is None:
        return x.mean(axis=0), x.var(axis=0)
    mean = matmul(weight, x) / weight.sum()
    return mean, matmul(weight, (x - mean[None]) ** 2) / weight.sum()


@partial(jax.jit, static_argnames=("k", "alike"))
def kmeans_plusplus(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    k: int,
    metric: Float[Array, " d"],
    weight: Array | None = None,
    alike: int | None = None,
) -> Array:
    """k rows, each drawn with probability proportional to its squared distance to the nearest one before.

    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding (2007).
    """
    n = x.shape[0]
    keys = jax.random.split(key, k)
    middle = x.mean(axis=0, keepdims=True)
    norms = map_chunks(lambda rows: jnp.sum(metric[None] * (rows - middle) ** 2, axis=1), x)

    def to_row(i: Array) -> Float[Array, " n"]:
        # Expanded, so that one pass over x is one matrix-vector product: seeding does not need the last digits.
        direction = metric * (at(x, i) - middle[0])
        return jnp.maximum(norms + at(norms, i) - 2 * (matmul(x, direction) - matmul(middle[0], direction)), 0)

    def draw(state: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
        last, nearest = state
        nearest = jnp.where(jnp.arange(n) == last, 0, jnp.minimum(nearest, to_row(last)))
        # Where every row coincides with a center there is nothing to choose by: any row will do.
        log_odds = jnp.where(nearest.max() > 0, jnp.log(nearest), jnp.zeros(n, x.dtype)) + log_weight
        i = jax.random.categorical(key, log_odds)
        return (i, nearest), i

    log_weight = jnp.zeros(n, x.dtype) if weight is None else jnp.log(weight)
    first = _drawn(keys[0], n, (), weight, alike)
    _, rest = jax.lax.scan(draw, (first, jnp.full(n, jnp.inf, x.dtype)), keys[1:])
    return at(x, jnp.concatenate([first[None], rest.astype(first.dtype)]))


@pytree
class _Sums(Additive):
    counts: Float[Array, " k"]
    first: Float[Array, "k d"]


@pytree
class _Clusters(Additive):
    """Sums over rows: how many each center has, how far off it they lie, and the rows farthest from theirs."""

    counts: Float[Array, " k"]
    first: Float[Array, "k d"]
    inertia: Float[Array, ""]
    farthest: Largest


@partial(jax.jit, static_argnames=("k", "alike"))
def kmeans(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    k: int,
    metric: Float[Array, " d"],
    weight: Array | None = None,
    alike: int | None = None,
) -> Array:
    """Lloyd's algorithm from k-means++ seeds; a cluster left empty moves to the row farthest from its center.

    Stops after MAX_LLOYD rounds, or when the sum of squared distances falls by less than LLOYD_TOLERANCE of it.
    """
    rows = RowsInMemory(x, weight, alike=alike)

    def improve(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        rounds, centers, _, inertia = state
        found = _assigned(rows, centers, metric)
        means = centers + found.first / jnp.where(found.counts > 0, found.counts, 1)[:, None]
        # The j-th empty cluster takes the j-th farthest row.
        empty = found.counts == 0
        farthest, _ = found.farthest.nth(jnp.cumsum(empty) - 1)
        means = jnp.where(empty[:, None], farthest, means)
        return rounds + 1, means, inertia, found.inertia / rows.total

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        rounds, _, before, now = state
        return (rounds < 2) | ((rounds < MAX_LLOYD) & (before - now > LLOYD_TOLERANCE * now))

    infinite = jnp.array(jnp.inf, x.dtype)
    seeds = kmeans_plusplus(key, x, k, metric, weight, alike)
    return everywhere(jax.lax.while_loop(unfinished, improve, (jnp.array(0), seeds, infinite, infinite))[1])


@partial(jax.jit, static_argnames=("k", "alike"))
def log_energy(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    k: int,
    metric: Float[Array, " d"],
    weight: Array | None = None,
    alike: int | None = None,
) -> Int[Array, " n"]:
    """The clusters of k-means on the principal components of (y, log(ε + y²)), where y are standardized features.

    Components of diagonal mixtures of images differ in where they have how much variance, far more than in their means.
    A row's squares are one draw from those variances each; their logarithms have additive noise, which the leading
    components of all of them average out.
    """
    for_rows, for_directions, for_clusters = jax.random.split(key, 3)
    mean, variance = mean_and_variance(x, weight)
    middle, deviation = mean[None], jnp.sqrt(variance)[None]
    unit = jnp.where(deviation > 0, deviation, 1)

    def features(rows: Array) -> Array:
        y = (rows - middle) / unit
        return jnp.concatenate([y, jnp.log(LEAST_ENERGY + y * y)], axis=1)

    n, d = x.shape
    several = weight is not None and alike is None  # a row that counts often may be drawn more than once
    chosen = _drawn(for_rows, n, (min(alike or n, ENERGY_ROWS),), weight, alike, replace=several)
    some = features(at(x, chosen))
    origin = some.mean(axis=0, keepdims=True)
    directions = principal_directions(for_directions, some - origin, min(2 * d, ENERGY_DIRECTIONS))
    energies = map_chunks(lambda rows: matmul(features(rows) - origin, directions), x)
    unweighted = jnp.ones(energies.shape[1], x.dtype)
    label_of = nearest(kmeans(for_clusters, energies, k, unweighted, weight, alike), unweighted)
    return map_chunks(lambda rows: label_of(rows)[0], energies)


def _assigned(rows: RowsInMemory, centers: Float[Array, "k d"], metric: Float[Array, " d"]) -> _Clusters:
    k, d = centers.shape
    label_of = nearest(centers, metric)

    def chunk(x: Array, weight: Array) -> _Clusters:
        label, distance = label_of(x)
        r = jax.nn.one_hot(label, k, dtype=x.dtype) * weight[:, None]
        farthest = Largest.of(k, distance, weight, x, label)
        return _Clusters(r.sum(axis=0), first_moments(x, r, centers), matmul(weight, distance), farthest)

    return rows.sum(chunk, max(2048, min(ROWS, ELEMENTS // d)))


def nearest(centers: Float[Array, "k d"], metric: Float[Array, " d"]) -> Any:
    """x -> the nearest center of every row, and the squared distance to it."""
    distances = squared_distances(centers, metric[None])

    def label_of(x: Float[Array, "c d"]) -> tuple[Int[Array, " c"], Float[Array, " c"]]:
        d = distances(x)
        return jnp.argmin(d, axis=1), jnp.min(d, axis=1)

    return label_of

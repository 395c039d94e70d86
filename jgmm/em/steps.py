"""The two steps of expectation-maximization (Dempster, Laird and Rubin, 1977; Bishop, PRML, section 9.2.2).

    e_step(gmm, rows) -> Statistics            one pass over the rows; sums of parts add
    m_step(gmm, statistics, prior, floor) -> GMM

With a prior of strength 0 the objective is the mean log-likelihood; otherwise the mean log-posterior density of
the parameters, Σ_n log p(x_n) / N + log p(μ, Σ) / N, up to a constant. EM never lowers it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance, Distances
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.initializers import cluster_means, nearest
from jgmm.em.rows import Rows, RowsInMemory
from jgmm.em.screening import carried_over, log_joint_of_relevant, negligible
from jgmm.em.statistics import Statistics, collect
from jgmm.mixture import GMM, log_constant, log_joint
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.linalg import matmul
from jgmm.numerics.sharding import by_component, everywhere
from jgmm.numerics.summation import CompensatedSum

# About this many pairs (row, component) are taken at a time, of at most so many rows.
PAIRS, ROWS = 2**23, 2**16
# A component is dead when it explains less than this many rows.
DEAD = 0.1


def e_step(gmm: GMM, rows: Rows) -> Statistics:
    """The statistics of the rows under the responsibilities r_nk = p(k | x_n)."""
    joint = log_joint(gmm)

    def chunk(x: Array, weight: Array) -> Statistics:
        log_p = map_chunks(joint, x)
        return _weighed(gmm, x, weight, log_p, log_p)

    return rows.sum(chunk, chunk_size(gmm.k))


def _screened_e_step(
    gmm: GMM, rows: RowsInMemory, distances: Distances, bounds: Float[Array, "k n"]
) -> tuple[Statistics, Float[Array, "k n"]]:
    """`e_step` without the pairs that do not matter, and the bounds, sharpened."""

    constant = log_constant(gmm)

    def chunk(x: Array, weight: Array, known: Array) -> tuple[Statistics, Array]:
        log_p, upper, known = log_joint_of_relevant(constant, distances, x, known, gmm.covariance.sparse_below)
        return _weighed(gmm, x, weight, log_p, upper), known

    return rows.sum_with_state(chunk, bounds, chunk_size(gmm.k))


def _weighed(gmm: GMM, x: Array, weight: Array, log_p: Array, upper: Array) -> Statistics:
    """The statistics of rows that count so often, given log-joint densities and upper bounds on them."""
    log_likelihood = jax.nn.logsumexp(log_p, axis=1)
    r = jnp.exp(log_p - log_likelihood[:, None])
    kept = (r > negligible(gmm.k, r.dtype)) & (weight > 0)[:, None]
    # A row of weight zero must not count even where its density is not finite.
    lost = jnp.where(kept | (weight == 0)[:, None], 0, jnp.exp(upper - log_likelihood[:, None]))
    seen = jnp.where(weight > 0, weight * log_likelihood, 0)
    return collect(gmm, x, jnp.where(kept, r, 0) * weight[:, None], seen, (lost * weight[:, None]).sum())


def chunk_size(k: int) -> int:
    """Rows taken at a time where none are asked for: as many as fill the tiles of `jgmm.em.tiles`."""
    return max(2048, min(ROWS, PAIRS // k))


def m_step(gmm: GMM, statistics: Statistics, prior: Prior, floor: Floor, rows: Float[Array, " k"] | None = None) -> GMM:
    """The mixture that maximizes the expected log-posterior given the statistics taken about `gmm`.

    `rows` are the numbers of rows of the components, where these are not the sums of what rows count for in means and
    scatters (`jgmm.em.scales`).
    """
    counts = statistics.counts
    rows = counts if rows is None else rows
    tiny = jnp.finfo(counts.dtype).tiny
    from_prior = jnp.broadcast_to(prior.mean, gmm.means.shape) - gmm.means
    to_mean = statistics.first / jnp.maximum(counts, tiny)[:, None]
    pulled = statistics.first + prior.mean_strength * from_prior
    shift = pulled / jnp.maximum(counts + prior.mean_strength, tiny)[:, None]
    # Moments were taken about the old means. Those about x̄_k, δ_k from there, are less by n_k δ_k δ_kᵀ; those about μ_k
    # are more than these by n_k (x̄_k − μ_k)(x̄_k − μ_k)ᵀ, and the prior adds the like of its mean.
    taken = gmm.covariance.squares(to_mean, counts)
    added = gmm.covariance.squares(to_mean - shift, counts)
    added += gmm.covariance.squares(from_prior - shift, jnp.full_like(counts, prior.mean_strength))
    covariance = gmm.covariance.update(statistics.second - taken + added, rows, prior, floor)
    return by_component(GMM(jnp.log(rows) - jnp.log(rows.sum()), gmm.means + shift, covariance), gmm.k)


def log_prior(gmm: GMM, prior: Prior) -> Float[Array, ""]:
    """Σ_k log p(μ_k, Σ_k) up to a constant (`Prior`)."""
    inverse = gmm.covariance.inverse_diagonal()
    believed = prior.variances(*inverse.shape)
    spread = gmm.covariance.log_det() + (believed * inverse - jnp.log(believed)).sum(axis=1)
    mean = jnp.broadcast_to(prior.mean, (1, gmm.d)).astype(gmm.means.dtype)
    off = gmm.covariance.squared_mahalanobis(gmm.means)(mean)
    return -0.5 * (prior.strength * spread.sum() + prior.mean_strength * off.sum())


class Step(NamedTuple):
    """An iteration: the new mixture, its bounds (`jgmm.em.screening`), and what was seen under the old one."""

    gmm: GMM
    bounds: Float[Array, "k n"] | None
    log_likelihood: CompensatedSum
    log_prior: Float[Array, ""]
    counts: Float[Array, " k"]
    pairs: Float[Array, ""]
    dropped: Float[Array, ""]


@partial(jax.jit, static_argnames="with_prior")
def em_step(
    gmm: GMM,
    rows: Rows,
    prior: Prior,
    floor: Floor,
    bounds: Float[Array, "k n"] | None = None,
    *,
    with_prior: bool = True,
) -> Step:
    """One iteration. `bounds` are those that the last one returned, or `screening.no_bounds`."""
    if bounds is None or not isinstance(rows, RowsInMemory):
        statistics = e_step(gmm, rows)
        new = m_step(gmm, statistics, prior, floor)
    else:
        distances = gmm.covariance.distances(gmm.means)
        statistics, bounds = _screened_e_step(gmm, rows, distances, bounds)
        new = m_step(gmm, statistics, prior, floor)
        bounds = carried_over(bounds, distances, new)
    penalty = log_prior(gmm, prior) if with_prior else jnp.zeros((), rows.dtype)
    seen = everywhere((statistics.log_likelihood, penalty, statistics.counts, statistics.pairs, statistics.dropped))
    return Step(new, bounds, *seen)


@partial(jax.jit, static_argnames="with_prior")
def objective(gmm: GMM, rows: Rows, prior: Prior, *, with_prior: bool = True) -> tuple[CompensatedSum, Array]:
    """Σ_n log p(x_n) and log p(μ, Σ), whose sum EM never lowers."""
    joint = log_joint(gmm)

    def chunk(x: Array, weight: Array) -> CompensatedSum:
        log_likelihood = jax.nn.logsumexp(map_chunks(joint, x), axis=1)
        return CompensatedSum.of(jnp.where(weight > 0, weight * log_likelihood, 0))

    penalty = log_prior(gmm, prior) if with_prior else jnp.zeros((), rows.dtype)
    return everywhere((rows.sum(chunk, chunk_size(gmm.k)), penalty))


def m_step_of(blank: GMM, rows: Rows, r_of: Callable[[Array], Array], prior: Prior, floor: Floor) -> GMM:
    """The M-step for the responsibilities r_of(x), in the covariance family of `blank` and about its means."""

    def chunk(x: Array, weight: Array) -> Statistics:
        return collect(blank, x, r_of(x) * weight[:, None], jnp.zeros_like(weight), jnp.zeros((), x.dtype))

    return m_step(blank, rows.sum(chunk, chunk_size(blank.k)), prior, floor)


def _blank(rows: Rows, means: Float[Array, "k d"], identity: Callable[..., Covariance]) -> GMM:
    """A mixture that says about which means, and in which family, moments are taken."""
    k, d = means.shape
    # Behind the barrier XLA does not try to do at compile time what depends on the identity alone.
    return GMM(jnp.zeros(k, rows.dtype), means, jax.lax.optimization_barrier(identity(k, d, rows.dtype)))


@partial(jax.jit, static_argnames="identity")
def from_centers(
    rows: Rows,
    means: Float[Array, "k d"],
    metric: Float[Array, " d"],
    prior: Prior,
    floor: Floor,
    *,
    identity: Callable[..., Covariance],
) -> GMM:
    """A mixture from k centers: every row goes to the nearest, and one M-step follows.

    identity(k, d, dtype) is that of a covariance family (`jgmm.covariance.base.identity_of`).
    """
    k, label_of = means.shape[0], nearest(means, metric)
    blank = _blank(rows, means, identity)
    return m_step_of(blank, rows, lambda x: jax.nn.one_hot(label_of(x)[0], k, dtype=x.dtype), prior, floor)


@partial(jax.jit, static_argnames=("k", "identity"))
def from_clusters(
    rows: RowsInMemory,
    clusters: Int[Array, " n"],
    prior: Prior,
    floor: Floor,
    *,
    k: int,
    identity: Callable[..., Covariance],
) -> GMM:
    """A mixture from the cluster of every row, by one M-step; `identity` as for `from_centers`."""
    blank = _blank(rows, cluster_means(rows, clusters, k=k), identity)

    def chunk(x: Array, weight: Array, cluster: Array) -> tuple[Statistics, Array]:
        r = jax.nn.one_hot(cluster[0], k, dtype=x.dtype) * weight[:, None]
        return collect(blank, x, r, jnp.zeros_like(weight), jnp.zeros((), x.dtype)), cluster

    statistics, _ = rows.sum_with_state(chunk, clusters[None], chunk_size(k))
    return m_step(blank, statistics, prior, floor)


@partial(jax.jit, static_argnames="identity")
def from_responsibilities(
    rows: RowsInMemory,
    r: Float[Array, "k n"],
    prior: Prior,
    floor: Floor,
    *,
    identity: Callable[..., Covariance],
) -> GMM:
    """A mixture from how much of every row its components have, by one M-step; `identity` as for `from_centers`."""
    counted = r if rows.weight is None else r * rows.weight[None]
    counts = counted.sum(axis=1)
    means = matmul(counted, rows.x) / jnp.maximum(counts, jnp.finfo(r.dtype).tiny)[:, None]
    blank = _blank(rows, means, identity)

    def chunk(x: Array, weight: Array, r: Array) -> tuple[Statistics, Array]:
        return collect(blank, x, r.T * weight[:, None], jnp.zeros_like(weight), jnp.zeros((), x.dtype)), r

    statistics, _ = rows.sum_with_state(chunk, r, chunk_size(len(r)))
    return m_step(blank, statistics, prior, floor)


def from_beginning(
    rows: Rows,
    some: RowsInMemory,
    found: Array,
    metric: Float[Array, " d"],
    prior: Prior,
    floor: Floor,
    *,
    k: int,
    identity: Callable[..., Covariance],
) -> GMM:
    """A mixture from what an initializer has found in some of the rows (`jgmm.em.initializers.beginning`): the clusters
    of these, or centers."""
    if found.ndim == 1:
        return from_clusters(some, found, prior, floor, k=k, identity=identity)
    return from_centers(rows, found, metric, prior, floor, identity=identity)


@partial(jax.jit, static_argnames="identity")
def in_family(gmm: GMM, rows: Rows, prior: Prior, floor: Floor, *, identity: Callable[..., Covariance]) -> GMM:
    """The M-step in another covariance family, with the responsibilities of `gmm`."""
    joint = log_joint(gmm)
    blank = replace(gmm, covariance=identity(gmm.k, gmm.d, rows.dtype))
    return m_step_of(blank, rows, lambda x: jax.nn.softmax(map_chunks(joint, x), axis=1), prior, floor)

"""Expectation-maximisation for mixtures (Dempster, Laird and Rubin, 1977; Bishop, PRML, section 9.2.2).

    e_step(gmm, x) -> Stats          sums over the data, a chunk at a time; sums of chunks add
    m_step(gmm, stats, prior) -> gmm
    fit(key, x, k=...)               the loop on the host: one compiled step an iteration

With a prior of strength 0 the objective is the mean log-likelihood; otherwise the mean log-posterior density of
the parameters, Σ_n log p(x_n) / N + log p(Σ) / N, up to a constant. EM never lowers it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.checks import InputError, check
from jgmm.chunks import fold_chunks, map_chunks, sum_chunks
from jgmm.covariance.base import Distances, Prior
from jgmm.exact import ExactSum
from jgmm.init import centres, nearest
from jgmm.mixture import GMM, log_joint
from jgmm.screening import carried_over, log_joint_of_relevant, negligible, no_bounds
from jgmm.stats import Stats, collect
from jgmm.tables import COVARIANCES

# About this many pairs (row, component) are taken at a time, of at most so many rows.
PAIRS, ROWS = 2**23, 2**16
# A component is dead when it explains less than this many rows.
DEAD = 0.1


def e_step(gmm: GMM, x: Float[Array, "n d"], *, chunk_size: int | None = None) -> Stats:
    """The statistics of x under the responsibilities r_nk = p(k | x_n)."""
    joint = log_joint(gmm)

    def chunk(part: Array, weight: Array) -> Stats:
        log_p = map_chunks(joint, part)
        return _weighed(gmm, part, weight, log_p, log_p)

    return sum_chunks(chunk, x, chunk_size or _rows(gmm))


def _screened_e_step(
    gmm: GMM, x: Array, distances: Distances, bounds: Array, chunk_size: int | None
) -> tuple[Stats, Array]:
    """`e_step` without the pairs that do not matter, and the bounds, sharpened."""

    def chunk(carry: tuple[Stats, Array], start: Array, part: Array, weight: Array) -> tuple[Stats, Array]:
        total, bounds = carry
        known = jax.lax.dynamic_slice_in_dim(bounds, start, part.shape[0], axis=1)
        log_p, upper, known = log_joint_of_relevant(gmm, distances, part, known)
        bounds = jax.lax.dynamic_update_slice_in_dim(bounds, known, start, axis=1)
        return total + _weighed(gmm, part, weight, log_p, upper), bounds

    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(lambda: e_step(gmm, x)))
    return fold_chunks(chunk, (zero, bounds), x, chunk_size or _rows(gmm))


def _weighed(gmm: GMM, x: Array, weight: Array, log_p: Array, upper: Array) -> Stats:
    """The statistics of rows with weights one or zero, given log-joint densities and upper bounds on them."""
    log_likelihood = jax.nn.logsumexp(log_p, axis=1)
    r = jnp.exp(log_p - log_likelihood[:, None])
    kept = (r > negligible(gmm.k, r.dtype)) & (weight > 0)[:, None]
    # A row of weight zero must not count even where its density is not finite.
    lost = jnp.where(kept | (weight == 0)[:, None], 0, jnp.exp(upper - log_likelihood[:, None]))
    return collect(gmm, x, jnp.where(kept, r, 0), jnp.where(weight > 0, log_likelihood, 0), lost.sum())


def _rows(gmm: GMM) -> int:
    """Rows taken at a time where none are asked for: as many as fill the tiles of `jgmm.pairs`."""
    return max(2048, min(ROWS, PAIRS // gmm.k))


def m_step(gmm: GMM, stats: Stats, prior: Prior) -> GMM:
    """The mixture that maximises the expected log-posterior given the statistics taken about `gmm`."""
    counts = stats.counts
    shift = stats.first / jnp.maximum(counts, jnp.finfo(counts.dtype).tiny)[:, None]
    # Moments were taken about the old means; moving the centres by δ_k takes n_k δ_k δ_kᵀ away.
    taken = gmm.covariance.moments(shift, jnp.diag(counts), jnp.zeros_like(shift))
    covariance = gmm.covariance.update(stats.second - taken, counts, prior)
    return GMM(jnp.log(counts) - jnp.log(counts.sum()), gmm.means + shift, covariance)


def log_prior(gmm: GMM, prior: Prior) -> Float[Array, ""]:
    """log p(Σ) up to a constant: −(strength / 2) Σ_k [log |Σ_k| + variance · tr Σ_k⁻¹] (`Prior`)."""
    penalty = gmm.covariance.log_det() + prior.variance * gmm.covariance.inverse_trace()
    return -0.5 * prior.strength * penalty.sum()


class Step(NamedTuple):
    """An iteration: the new mixture, its bounds (`jgmm.screening`), and what was seen under the old one."""

    gmm: GMM
    bounds: Float[Array, "k n"] | None
    log_likelihood: ExactSum
    log_prior: Float[Array, ""]
    counts: Float[Array, " k"]
    pairs: Float[Array, ""]
    dropped: Float[Array, ""]


@partial(jax.jit, static_argnames=("chunk_size", "with_prior"))
def em_step(
    gmm: GMM,
    x: Float[Array, "n d"],
    prior: Prior,
    bounds: Float[Array, "k n"] | None = None,
    *,
    chunk_size: int | None = None,
    with_prior: bool = True,
) -> Step:
    """One iteration. `bounds` are those that the last one returned, or `screening.no_bounds`."""
    if bounds is None:
        stats = e_step(gmm, x, chunk_size=chunk_size)
        new = m_step(gmm, stats, prior)
    else:
        distances = gmm.covariance.distances(gmm.means)
        stats, bounds = _screened_e_step(gmm, x, distances, bounds, chunk_size)
        new = m_step(gmm, stats, prior)
        bounds = carried_over(bounds, distances, new)
    penalty = log_prior(gmm, prior) if with_prior else jnp.zeros((), x.dtype)
    return Step(new, bounds, stats.log_likelihood, penalty, stats.counts, stats.pairs, stats.dropped)


def from_labels(
    gmm: GMM, x: Float[Array, "n d"], labels: Int[Array, " n"], prior: Prior, *, chunk_size: int | None = None
) -> GMM:
    """The M-step for hard assignments, in the covariance family of `gmm`."""

    def chunk(rows: tuple[Array, Array], weight: Array) -> Stats:
        r = jax.nn.one_hot(rows[1], gmm.k, dtype=x.dtype) * weight[:, None]
        return collect(gmm, rows[0], r, jnp.zeros_like(weight), jnp.zeros((), x.dtype))

    return m_step(gmm, sum_chunks(chunk, (x, labels), chunk_size or _rows(gmm)), prior)


@partial(jax.jit, static_argnames=("covariance_type", "chunk_size"))
def from_centres(
    x: Float[Array, "n d"],
    means: Float[Array, "k d"],
    metric: Float[Array, " d"],
    prior: Prior,
    *,
    covariance_type: str,
    chunk_size: int | None = None,
) -> GMM:
    """A mixture from k centres: every row goes to the nearest, and one M-step follows."""
    k, d = means.shape
    # Behind the barrier XLA does not try to do at compile time what depends on the identity alone.
    identity = jax.lax.optimization_barrier(COVARIANCES[covariance_type](k, d, x.dtype))
    blank = GMM(jnp.zeros(k, x.dtype), means, identity)
    return from_labels(blank, x, nearest(x, means, metric)[0], prior, chunk_size=chunk_size)


@partial(jax.jit, static_argnames=("covariance_type", "chunk_size"))
def in_family(
    gmm: GMM, x: Float[Array, "n d"], prior: Prior, *, covariance_type: str, chunk_size: int | None = None
) -> GMM:
    """The M-step in another covariance family, with the responsibilities of `gmm`."""
    joint = log_joint(gmm)
    target = replace(gmm, covariance=COVARIANCES[covariance_type](gmm.k, gmm.d, x.dtype))

    def chunk(rows: Array, weight: Array) -> Stats:
        r = jax.nn.softmax(map_chunks(joint, rows), axis=1) * weight[:, None]
        return collect(target, rows, r, jnp.zeros_like(weight), jnp.zeros((), x.dtype))

    return m_step(target, sum_chunks(chunk, x, chunk_size or _rows(gmm)), prior)


@partial(jax.jit, static_argnames="chunk_size")
def revive(gmm: GMM, x: Float[Array, "n d"], counts: Float[Array, " k"], *, chunk_size: int | None = None) -> GMM:
    """Move every dead component to one of the rows the mixture explains worst.

    It takes the covariance of the component that row belongs to, and the weight of one row.
    """
    joint = log_joint(gmm)

    def explain(rows: Array) -> tuple[Array, Array]:
        log_p = joint(rows)
        return jax.nn.logsumexp(log_p, axis=1), jnp.argmax(log_p, axis=1)

    log_likelihood, owner = map_chunks(explain, x, chunk_size)
    dead = counts < DEAD
    _, worst = jax.lax.top_k(-log_likelihood, min(gmm.k, x.shape[0]))
    row = worst[jnp.clip(jnp.cumsum(dead) - 1, 0, worst.shape[0] - 1)]
    parent = owner[row]

    def adopt(leaf: Array) -> Array:
        if leaf.shape[0] != gmm.k:
            return leaf
        return jnp.where(dead.reshape(-1, *[1] * (leaf.ndim - 1)), leaf[parent], leaf)

    weights = jnp.where(dead, 1 / x.shape[0], jnp.exp(gmm.log_weights))
    means = jnp.where(dead[:, None], x[row], gmm.means)
    return GMM(jnp.log(weights / weights.sum()), means, jax.tree.map(adopt, gmm.covariance))


@dataclass(frozen=True)
class EMState:
    """Where a fit stands: all that is needed to go on from here.

    Fields:
        gmm: the current mixture of the current restart.
        bounds: what is known of its distances to the rows (`jgmm.screening`).
        restart: its number, from 0.
        history: the objective, mean nats a row, under the mixture before each iteration of this restart.
        log_likelihoods: the mean log-likelihood beside it.
        counts: n_k at the last iteration.
        pairs: how many responsibilities a row had that took part in the last iteration.
        dropped: an upper bound on the sum of those of a row that did not, of 1.
        revived: how many components have been re-seeded so far.
        converged: whether the last change was below the tolerance.
        best: the state of the best finished restart.
    """

    gmm: GMM
    bounds: Float[Array, "k n"] | None = None
    restart: int = 0
    history: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    counts: np.ndarray | None = None
    pairs: float = 0.0
    dropped: float = 0.0
    revived: int = 0
    converged: bool = False
    best: "EMState | None" = None


def fit(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    *,
    k: int,
    covariance_type: str = "diag",
    init: str = "kmeans",
    metric: Array | None = None,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-3,
    prior: Prior | None = None,
    chunk_size: int | None = None,
    start: GMM | None = None,
    state: EMState | None = None,
    callback: Callable[[EMState], None] = lambda state: None,
) -> EMState:
    """Fit a mixture of k Gaussians to the rows of x by EM.

    Arguments:
        key: a JAX random key; the same key, data and options give the same mixture.
        x: finite floating-point data; the computation is in its dtype.
        covariance_type, init: names in `jgmm.tables`.
        metric: weights of the features in the clustering that starts EM (`jgmm.init`).
        n_init: restarts, of which the one with the highest objective is returned.
        tol: EM stops when the objective changes by less than this, in nats a row.
        prior: see `Prior`; None is maximum likelihood with scikit-learn's floor of 1e-6.
        chunk_size: rows taken at a time; None chooses by K and D.
        start: a mixture to start from instead of clustering.
        state: a state once passed to `callback`, to go on from.
        callback: called with the state at the start of a restart and after every iteration.
    Returns the final state of the best restart.
    Raises InputError for k < 1, fewer rows than k, a wrong shape or dtype, NaN or infinite values, and when the
    likelihood is not finite in this dtype.
    """
    x = jnp.asarray(x)
    _check_data(x, k, start)
    check(tol >= 0, f"tol must be at least 0, got {tol}.")
    check(max_iter >= 1 and n_init >= 1, f"max_iter and n_init must be at least 1, got {max_iter}, {n_init}.")
    covariance_type = COVARIANCES.canonical(covariance_type)
    prior = jax.tree.map(lambda v: jnp.asarray(v, x.dtype), prior or Prior())
    metric = jnp.ones(x.shape[1], x.dtype) if metric is None else metric
    with_prior = bool(prior.strength > 0)

    def begin(restart: int, best: EMState | None = None) -> EMState:
        gmm = start
        if gmm is None:
            means = centres(jax.random.fold_in(key, restart), x, k, init, metric)
            gmm = from_centres(x, means, metric, prior, covariance_type=covariance_type, chunk_size=chunk_size)
        jax.block_until_ready(gmm)  # so that whoever times iterations does not time this
        return EMState(gmm, no_bounds(gmm, x.shape[0]), restart=restart, best=best)

    while True:
        if state is None:
            state = begin(0)
            callback(state)
        while not (state.converged or len(state.history) >= max_iter):
            step = em_step(state.gmm, x, prior, state.bounds, chunk_size=chunk_size, with_prior=with_prior)
            gmm, counts, bounds = step.gmm, step.counts, step.bounds
            mean = float(step.log_likelihood) / x.shape[0]
            objective = mean + float(step.log_prior) / x.shape[0]
            _check_finite(np.isfinite(objective), x)
            newly_dead = _n_dead(counts) - _n_dead(state.counts)
            if newly_dead > 0:
                revived = revive(gmm, x, counts, chunk_size=chunk_size)
                before, after = (_objective(g, x, prior, chunk_size, with_prior) for g in (gmm, revived))
                if after > before:
                    gmm, bounds = revived, no_bounds(revived, x.shape[0])
                else:
                    newly_dead = 0
            change = objective - state.history[-1] if state.history else np.inf
            state = replace(
                state,
                gmm=gmm,
                bounds=bounds,
                pairs=float(step.pairs) / x.shape[0],
                dropped=float(step.dropped) / x.shape[0],
                history=[*state.history, objective],
                log_likelihoods=[*state.log_likelihoods, mean],
                counts=np.asarray(counts),
                revived=state.revived + max(newly_dead, 0),
                converged=abs(change) < tol and newly_dead <= 0,
            )
            callback(state)
        parameters = jax.tree.leaves((state.gmm.means, state.gmm.covariance))
        _check_finite(all(bool(jnp.isfinite(p).all()) for p in parameters), x)
        best = state.best
        if best is None or state.history[-1] > best.history[-1]:
            best = replace(state, best=None, bounds=None)
        if state.restart + 1 >= (1 if start is not None else n_init):
            return best
        state = begin(state.restart + 1, best)
        callback(state)


def _objective(gmm: GMM, x: Array, prior: Prior, chunk_size: int | None, with_prior: bool) -> float:
    step = em_step(gmm, x, prior, chunk_size=chunk_size, with_prior=with_prior)
    return (float(step.log_likelihood) + float(step.log_prior)) / x.shape[0]


def _n_dead(counts: Array | np.ndarray | None) -> int:
    return 0 if counts is None else int((np.asarray(counts) < DEAD).sum())


def _check_finite(finite: bool | np.bool_, x: Array) -> None:
    if not finite:
        raise InputError(
            f"the likelihood is not finite: a covariance is not positive definite in {x.dtype}, or the data are too "
            "large to square. Raise the prior strength or the covariance floor (--prior-strength, --reg-covar), "
            "lower k, rescale the data, or compute in float64 (--dtype float64)."
        )


def _check_data(x: Array, k: int, start: GMM | None) -> None:
    check(x.ndim == 2, f"expected data of shape (n, d), got {x.shape}.")
    check(jnp.issubdtype(x.dtype, jnp.floating), f"expected floating-point data, got {x.dtype}.")
    check(k >= 1, f"k must be at least 1, got {k}.")
    check(x.shape[0] >= k, f"{x.shape[0]} rows are too few for k={k} components: lower k or bring more data.")
    check(bool(jnp.isfinite(x).all()), "the data contain NaN or infinite values: remove those rows first.")
    if start is not None:
        check(
            (start.k, start.d) == (k, x.shape[1]),
            f"the starting mixture has k={start.k} and d={start.d}, the fit k={k} and d={x.shape[1]}.",
        )

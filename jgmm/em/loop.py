"""The loop of EM, on the host: one compiled step an iteration, restarts, and components that are given a new place."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.base import Family, blank_of, identity_of
from jgmm.covariance.families import same_family
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.initializers import beginning, mean_and_variance
from jgmm.em.relocation import revive, split
from jgmm.em.rows import Rows, RowsInMemory, on_mesh
from jgmm.em.screening import no_bounds
from jgmm.em.steps import DEAD, Step, em_step, from_beginning, in_family, objective
from jgmm.errors import InputError, check, check_count, check_number, short
from jgmm.mixture import GMM
from jgmm.numerics.processes import own
from jgmm.numerics.sharding import free_axes, placed
from jgmm.numerics.summation import CompensatedSum
from jgmm.numerics.typing import ArrayLike

T = TypeVar("T")

# EM starts from what is found in at most so many numbers of the rows.
SOME = 3 * 2**26
# The stream of random numbers that chooses them, folded into the key.
SOME_STREAM = 2**31 - 1
# Iterations after which components that were moved are judged.
TRIAL = 3


@dataclass(frozen=True, eq=False)
class EMState:
    """Where a fit stands: all that is needed to go on from here.

    Attributes:
        gmm: The current mixture of the current restart.
        bounds: What is known of its distances to the rows (`jgmm.em.screening`).
        prior: The prior of the current restart.
        restart: The number of the restart, from 0.
        history: The objective, mean nats a row, under the mixture before each iteration of this restart.
        log_likelihoods: The mean log-likelihood beside it.
        counts: n_k at the last iteration.
        pairs: How many responsibilities a row had that took part in the last iteration.
        dropped: An upper bound on the sum of those of a row that did not, of 1.
        revived: How many components have been given a new place so far.
        settled: Whether small components are left where they are, since moving them has not helped.
        converged: Whether the last change was below the tolerance.
        best: The state of the best finished restart.
        last: Whether no other restart follows: it is the best of all.
    """

    gmm: GMM
    bounds: Float[Array, "k n"] | None = None
    prior: Prior = field(default_factory=Prior)
    restart: int = 0
    history: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    counts: np.ndarray | None = None
    pairs: float = 0.0
    dropped: float = 0.0
    revived: int = 0
    settled: bool = False
    converged: bool = False
    best: "EMState | None" = None
    last: bool = False

    def __repr__(self) -> str:
        last = f", objective={self.history[-1]:.6g}" if self.history else ""
        return f"EMState({self.gmm!r}, restart={self.restart}, n_iter={len(self.history)}{last})"


@dataclass(frozen=True)
class _Task:
    """What a fit reads."""

    rows: Rows
    floor: Floor
    tol: float
    min_count: float
    learns: bool

    @property
    def total(self) -> float:
        """How many rows count."""
        return float(self.rows.total)

    def objective(self, gmm: GMM, prior: Prior) -> float:
        """Of the whole data, mean nats a row."""
        log_likelihood, penalty = objective(gmm, self.rows, prior, with_prior=says_something(prior))
        return (float(log_likelihood) + float(penalty)) / self.total


def run_em(
    key: PRNGKeyArray,
    x: Float[Array, "n d"] | Float[np.ndarray, "n d"] | Rows,
    *,
    k: int,
    covariance_type: Family | None = None,
    init: Any = "kmeans",
    metric: ArrayLike | None = None,
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-3,
    prior: Prior | Callable[[GMM, Array], Prior] | None = None,
    floor: Floor | None = None,
    chunk_size: int | None = None,
    sample_weight: Float[Array, " n"] | None = None,
    min_count: float = 0.0,
    start: GMM | None = None,
    state: EMState | None = None,
    callback: Callable[[EMState], None] | None = None,
) -> EMState:
    """Fit a mixture to rows as they are; `jgmm.fit_em` is the door, and explains the arguments they share. EM starts
    from what is found in some rows, where they are very many.

    Args:
        x: A table, which is cut over the devices of the mesh that is set, if there is one; or rows of any other kind,
            which know their weights and chunks themselves.
        metric: Weights of the features in the clustering that starts EM (`jgmm.em.initializers`), [D], or several
            [M, D], which starts take in turns.
        prior: A prior, or a function that learns one from the mixture that EM starts from and the rows that its
            components explain (`jgmm.em.hierarchy`).
        sample_weight: How often every row counts, above zero.
        min_count: Components that explain fewer rows than this are given up for halves of the largest ones, where that
            raises the objective; 0 moves those alone that explain none, to rows that are explained badly.
        start: A mixture to start from; of another family it is refitted once, with its responsibilities.
        state: A state once passed to `callback`, to go on from.
        callback: Called with the state at the start of a restart and after every iteration.
    Returns:
        The final state of the best restart.
    Raises:
        InputError: As `jgmm.fit_em`.
    """
    check_lengths(max_iter, n_init, tol, chunk_size)
    _check(x, k, start)
    identity, d, dtype = identity_of(covariance_type or "diag"), x.shape[1], x.dtype
    blank = blank_of(covariance_type or "diag", k, d, dtype)
    rows = x if isinstance(x, Rows) else on_mesh(x, sample_weight, chunk_size)

    def found_in() -> RowsInMemory:
        """The rows in which EM finds where to start: not kept, since they may be a copy."""
        return rows.some(jax.random.fold_in(key, SOME_STREAM), SOME)

    # A prior that is learned needs a mixture first, in which a cluster of one row has a variance.
    first = Prior(strength=1.0, variance=_mean_variance(found_in())) if callable(prior) else prior
    first, floor = as_arrays(first, floor, dtype)
    check_prior(first, k, d)
    task = _Task(rows, floor, tol, min_count, learns=callable(prior))
    weights = jnp.atleast_2d(jnp.ones(d, dtype) if metric is None else jnp.asarray(metric, dtype))

    def watch(state: EMState) -> None:
        if callback is not None:
            callback(state)

    def begin(restart: int, best: EMState | None = None) -> EMState:
        if start is None:
            metric, some = weights[restart % len(weights)], found_in()
            found = beginning(
                jax.random.fold_in(key, restart), some.x, k, init, metric, weight=some.weight, alike=some.alike
            )
            gmm = from_beginning(rows, some, found, metric, first, floor, k=k, identity=identity)
        elif covariance_type is None or same_family(start.covariance, blank):
            gmm = placed(start, k)
        else:
            gmm = in_family(placed(start, k), task.rows, first, floor, identity=identity)
        known = own(gmm) if free_axes() and callable(prior) else gmm
        used = prior(known, rows.total * known.weights) if callable(prior) else first
        jax.block_until_ready(gmm)  # so that whoever times iterations does not time this
        state = EMState(gmm, no_bounds(gmm, rows), as_arrays(used, floor, dtype)[0], restart, best=best)
        watch(state)
        return state

    if state is None:
        with rows.reading():
            state = begin(0)
    else:
        gmm, known = placed(state.gmm, k), placed(state.prior, k)
        kept = state.best and replace(state.best, gmm=placed(state.best.gmm, k))
        bounds = no_bounds(gmm, rows) if state.bounds is None else state.bounds
        state = replace(state, gmm=gmm, prior=known, bounds=bounds, best=kept)
    while True:
        while not (state.converged or len(state.history) >= max_iter):
            with rows.reading():
                state = _iterate(task, state)
            watch(state)
        best = _better(task, state)
        if state.last or state.restart + 1 >= (1 if start is not None else n_init):
            return replace(best, last=True)
        state = begin(state.restart + 1, best)


def _mean_variance(rows: RowsInMemory) -> Array:
    return mean_and_variance(rows.x, rows.weight)[1].mean()


def _iterate(task: _Task, state: EMState) -> EMState:
    """One iteration; components that it leaves dead are re-seeded where that helps."""
    n, prior = task.total, state.prior
    step = em_step(state.gmm, task.rows, prior, task.floor, state.bounds, with_prior=says_something(prior))
    mean = float(step.log_likelihood) / n
    value = mean + float(step.log_prior) / n
    check_finite(np.isfinite(value), task.rows.dtype)
    counts = np.asarray(step.counts)
    place = (_halves if task.min_count > 0 else _revived)(task, state, step)
    gmm, bounds, moved = step.gmm, step.bounds, place.moved
    if moved > 0:
        gmm, prior, bounds = place.gmm, place.prior, no_bounds(place.gmm, task.rows)
    change = value - state.history[-1] if state.history else np.inf
    return replace(
        state,
        gmm=gmm,
        prior=prior,
        bounds=bounds,
        pairs=float(step.pairs) / task.rows.shape[0],
        dropped=float(step.dropped) / n,
        history=[*state.history, value],
        log_likelihoods=[*state.log_likelihoods, mean],
        counts=counts,
        revived=state.revived + moved,
        settled=place.settled,
        converged=abs(change) < task.tol and moved == 0,
    )


class _Place(NamedTuple):
    """A mixture in which some components have moved, if that helps."""

    moved: int
    gmm: GMM
    prior: Prior
    settled: bool = False


def _revived(task: _Task, state: EMState, step: Step) -> _Place:
    """Components that have just died, moved to rows that are explained badly."""
    few = DEAD * float(task.rows.unit)
    dead = _n_below(few, np.asarray(step.counts)) - _n_below(few, state.counts)
    if dead > 0:
        gmm = revive(step.gmm, task.rows, step.counts)
        if task.objective(gmm, state.prior) > task.objective(step.gmm, state.prior):
            return _Place(dead, gmm, state.prior)
    return _Place(0, step.gmm, state.prior)


def _halves(task: _Task, state: EMState, step: Step) -> _Place:
    """Small components given up for halves of large ones; it takes a few iterations to see whether that helps."""
    small = np.asarray(step.counts) < task.min_count
    moved = int(small.sum())
    if state.settled or moved == 0 or 2 * moved > len(small):
        return _Place(0, step.gmm, state.prior, state.settled)
    gmm, prior = split(step.gmm, task.rows, step.counts, jnp.asarray(small), state.prior, task.floor)
    for _ in range(TRIAL):
        gmm = em_step(gmm, task.rows, prior, task.floor, with_prior=says_something(prior)).gmm
    helps = task.objective(gmm, prior) > task.objective(step.gmm, state.prior)
    return _Place(moved if helps else 0, gmm, prior, settled=not helps)


def _better(task: _Task, state: EMState) -> EMState:
    """The better of a finished restart and the best before it."""
    parameters = jax.tree.leaves((state.gmm.means, state.gmm.covariance))
    check_finite(all(bool(jnp.isfinite(p).all()) for p in parameters), task.rows.dtype)
    best = state.best
    # Objectives under priors that were learned from different starts are not to be compared.
    values = "log_likelihoods" if task.learns else "history"
    if best is None or getattr(state, values)[-1] > getattr(best, values)[-1]:
        return replace(state, best=None, bounds=None)
    return best


def climb(
    step: Callable[[T], tuple[T, CompensatedSum, Array]],
    start: T,
    rows: float,
    dtype: jnp.dtype,
    *,
    max_iter: int,
    tol: float,
    callback: Callable[[int, float], None] | None = None,
) -> tuple[T, list[float], bool]:
    """EM from a start of any kind, without restarts or moves.

    Args:
        step: An iteration: the next model, and Σ log p(x_n) and log p(parameters) of the last one.
        rows: How many count.
        callback: Called with the number of the iteration and the mean log-likelihood before it.
    Returns:
        The model, the objective before each iteration (mean nats a row), and whether its last change was below `tol`.
    Raises:
        InputError: When the likelihood is not finite in this dtype.
    """
    model, converged = start, False
    history: list[float] = []
    while len(history) < max_iter and not converged:
        model, log_likelihood, penalty = step(model)
        mean = float(log_likelihood) / rows
        history.append(mean + float(penalty) / rows)
        check_finite(np.isfinite(history[-1]), dtype)
        if callback is not None:
            callback(len(history), mean)
        converged = len(history) > 1 and abs(history[-1] - history[-2]) < tol
    return model, history, converged


def says_something(prior: Prior) -> bool:
    """Whether it is worth any row."""
    return bool(prior.strength > 0 or prior.mean_strength > 0)


def _n_below(few: float, counts: np.ndarray | None) -> int:
    return 0 if counts is None else int((counts < few).sum())


def check_finite(finite: bool | np.bool_, dtype: jnp.dtype) -> None:
    """Raise InputError for a likelihood that is not finite."""
    if not finite:
        raise not_finite(dtype)


def not_finite(dtype: Any) -> InputError:
    """The error of a likelihood that is not finite."""
    return InputError(
        f"the likelihood is not finite: a covariance is not positive definite in {dtype}, or the data are too large to "
        "square. Raise the strength of the prior or the floor of the covariances, lower k, rescale the data, or "
        "compute in float64."
    )


def check_enough(n: int, k: int) -> None:
    """Raise InputError for fewer rows than components."""
    check(n >= k, f"{n} rows are too few for k={k} components: lower k or bring more data.")


def check_lengths(max_iter: Any, n_init: Any, tol: Any, chunk_size: Any) -> None:
    """Raise InputError for numbers out of range."""
    check_count("max_iter", max_iter)
    check_count("n_init", n_init)
    check_number("tol", tol, least=0)
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)


def check_prior(prior: Prior, k: int, d: int) -> None:
    """Raise InputError for arrays that do not fit."""
    for name, value, shape in (("variance", prior.variance, (k, d)), ("mean", prior.mean, (d,))):
        try:
            fits = np.broadcast_shapes(jnp.shape(value), shape) == shape
        except ValueError:
            fits = False
        check(fits, f"the {name} of the prior must broadcast to {shape}, got {short(value)}.")


def _check(x: Any, k: int, start: GMM | None) -> None:
    check(len(x.shape) == 2 and x.shape[1] > 0, f"expected data of shape (n, d), got {x.shape}.")
    single = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32
    check(single, f"EM runs in float32 or float64, the data are {x.dtype}.")
    check_enough(x.shape[0], check_count("k", k))
    finite = isinstance(x, Rows) or bool(jnp.isfinite(x).all())
    check(finite, "the data contain NaN or infinite values: remove those rows first.")
    if start is not None:
        check(
            (start.k, start.d) == (k, x.shape[1]),
            f"the starting mixture has k={start.k} and d={start.d}, the fit k={k} and d={x.shape[1]}.",
        )

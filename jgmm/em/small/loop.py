"""A whole fit in NumPy: starts, EM from each, and moves from the best."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from jgmm.covariance.base import Family
from jgmm.covariance.prior import Floor, Prior
from jgmm.em.loop import EMState, not_finite
from jgmm.em.small.families import Arithmetic, Beliefs, Matrices, arithmetic_of
from jgmm.em.small.moves import moves
from jgmm.em.small.steps import Mixture, Table, kmeans, one_hot
from jgmm.mixture import GMM

# The largest fits that are small: multiplications of an iteration, and responsibilities.
WORK, PAIRS = 2**27, 2**19
# A component with a variance of less than so many floors is at the floor.
AT_FLOOR = 10


class SmallFit(NamedTuple):
    """What came of a fit: the mixture of x, the objective of x before every iteration, and whether EM has converged."""

    gmm: GMM
    history: list[float]
    converged: bool


def small_arithmetic(shape: tuple[int, ...], k: int, family: Family) -> Arithmetic | None:
    """The arithmetic of a family, for a fit to rows [N, D] so small that NumPy ends before a compiler would; None for a
    larger one, a family that NumPy does not know, and where JAX computes on another device than the CPU."""
    n, d = shape
    arithmetic = arithmetic_of(family)
    if arithmetic is None or jax.default_backend() != "cpu":
        return None
    work = n * k * d * (d if isinstance(arithmetic, Matrices) else 1)
    return arithmetic if work <= WORK and n * k <= PAIRS else None


def fit_small(
    key: PRNGKeyArray,
    x: np.ndarray,
    weight: np.ndarray,
    middle: np.ndarray,
    scale: np.ndarray,
    arithmetic: Arithmetic,
    *,
    k: int,
    n_init: int,
    max_iter: int,
    tol: float,
    prior: Prior,
    floor: Floor,
    dtype: Any,
    callback: Callable[[EMState], None] | None,
) -> SmallFit:
    """Fit a mixture to z = (x − middle) / scale; for `jgmm.fit_em`, which explains the arguments they share.

    Args:
        weight: How often every row counts, above zero [N].
        dtype: That of mixtures: the arithmetic is in float64, and they are rounded at the end.
    Raises:
        InputError: When the likelihood is not finite.
    """
    z = (x - middle) / scale
    table = Table(z, arithmetic, Beliefs.of(prior, floor, x.shape[1]), weight)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    middle_of_z = np.average(z, axis=0, weights=weight)
    units = clustering_units(np.sqrt(np.average((z - middle_of_z) ** 2, axis=0, weights=weight)), scale)

    def watch(run: _Run) -> None:
        if callback is not None:
            callback(run.state(as_gmm(run.mixture, arithmetic, dtype), prior))

    search = _Search(table, max_iter, tol, watch)
    try:
        with np.errstate(all="ignore"):  # what is not finite is found out
            runs = []
            for i in range(n_init):
                label = kmeans(rng, z / units[i % len(units)], k, weight)
                runs.append(search.climb(_Run(table.m_step(one_hot(label, k, weight)), i)))
            best = search.neighbors(rng, max(runs, key=lambda run: run.history[-1]))
    except np.linalg.LinAlgError:
        raise not_finite(dtype) from None
    log_weights, means, leaf = best.mixture
    of_x = Mixture(log_weights, middle + means * scale, arithmetic.scaled(leaf, scale))
    log_volume = float(np.log(scale).sum())
    history = [objective - log_volume for objective in best.history]
    return SmallFit(as_gmm(of_x, arithmetic, dtype), history, best.converged)


def clustering_units(deviation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The units in which starts find their clusters, in turns, [3, D]: those of z, those of x, equal deviations."""
    return np.stack([np.ones_like(scale), scale.max() / scale, np.where(deviation > 0, deviation, 1)])


def as_gmm(mixture: Mixture, arithmetic: Arithmetic, dtype: Any) -> GMM:
    """In JAX; put on the device as it is, so that nothing is compiled."""
    log_weights, means, leaf = (jax.device_put(np.asarray(array, dtype)) for array in mixture)
    return GMM(log_weights, means, arithmetic.covariance(leaf, means.shape[1]))


@dataclass(frozen=True)
class _Run:
    """Where a start stands; the fields are those of `EMState`."""

    mixture: Mixture
    restart: int
    history: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    counts: np.ndarray | None = None
    revived: int = 0
    converged: bool = False

    def state(self, gmm: GMM, prior: Prior) -> EMState:
        """The same as a state of the loop in JAX."""
        return EMState(
            gmm,
            prior=prior,
            restart=self.restart,
            history=self.history,
            log_likelihoods=self.log_likelihoods,
            counts=self.counts,
            pairs=float(gmm.k),
            revived=self.revived,
            converged=self.converged,
        )


@dataclass(frozen=True)
class _Search:
    """How far EM goes, and who is told."""

    table: Table
    max_iter: int
    tol: float
    watch: Callable[[_Run], None]

    def climb(self, run: _Run) -> _Run:
        """EM until the objective changes by less than `tol`."""
        self.watch(run)
        while not run.converged and len(run.history) < self.max_iter:
            seen = self.table.e_step(run.mixture)
            if not np.isfinite(seen.objective):
                raise np.linalg.LinAlgError
            last = run.history[-1] if run.history else -np.inf
            run = replace(
                run,
                mixture=self.table.m_step(seen.r),
                history=[*run.history, seen.objective],
                log_likelihoods=[*run.log_likelihoods, seen.log_likelihood],
                counts=seen.r.sum(axis=1),
                converged=abs(seen.objective - last) < self.tol,
            )
            self.watch(run)
        return run

    def neighbors(self, rng: np.random.Generator, run: _Run) -> _Run:
        """The last of the runs that moves lead to, each better than the one before: one iteration of its history each.

        A prior that is told for every component says where each belongs, and none moves. A move that ends in more
        components as thin as the floor, such as the rows of one value of a feature, is not better: only the floor
        bounds the likelihood there.
        """
        movable = len(run.mixture.means) > 1 and len(self.table.beliefs.variance) == 1
        while movable and run.converged and len(run.history) < self.max_iter:
            tried = (self._tried(r, run) for r in moves(self.table, rng, run.mixture))
            better = next((found for found in tried if found is not None), None)
            if better is None:
                break
            run = replace(
                better,
                history=[*run.history, better.history[-1]],
                log_likelihoods=[*run.log_likelihoods, better.log_likelihoods[-1]],
                revived=run.revived + 1,
            )
            self.watch(run)
        return run

    def _tried(self, r: np.ndarray, run: _Run) -> _Run | None:
        """What EM makes of responsibilities, if that is better than a run."""
        try:
            found = replace(self, watch=lambda run: None).climb(_Run(self.table.m_step(r), run.restart))
        except np.linalg.LinAlgError:
            return None
        better = found.converged and found.history[-1] > run.history[-1] + self.tol
        return found if better and self._n_at_floor(found) <= self._n_at_floor(run) else None

    def _n_at_floor(self, run: _Run) -> int:
        thinnest = self.table.arithmetic.thinnest(run.mixture.leaf)
        return int((thinnest < AT_FLOOR * self.table.beliefs.absolute).sum())

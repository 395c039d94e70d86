"""One iteration of EM at a time, in NumPy or by JAX, for whoever runs the loop: `jgmm.GaussianMixture`.

Small tables of families that NumPy knows are fitted in NumPy and float64, where compiling would take longer than the
fit; everything else by JAX, in the dtype of the rows.
"""

from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.covariance.base import Family, blank_of, identity_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.missing import step_with_missing
from jgmm.em.rows import RowsInMemory
from jgmm.em.screening import no_bounds
from jgmm.em.small.families import Arithmetic, Beliefs, arithmetic_of
from jgmm.em.small.loop import as_gmm, small_arithmetic
from jgmm.em.small.steps import Mixture, Table
from jgmm.em.steps import em_step, from_responsibilities
from jgmm.errors import InputError
from jgmm.mixture import GMM


class Engine(ABC):
    """EM on some rows. A state is a mixture in the engine's own form."""

    @abstractmethod
    def from_responsibilities(self, r: Float[np.ndarray, "n k"]) -> Any:
        """The state of the M-step given how much of every row a component has."""

    @abstractmethod
    def begin(self, mixture: Mixture | GMM) -> Any:
        """The state that is this mixture."""

    @abstractmethod
    def step(self, state: Any) -> tuple[Any, float]:
        """The state after an iteration, and the mean log-likelihood of the rows before it, nats.

        Raises:
            InputError: Where a covariance is not positive definite, or the likelihood not finite.
        """

    @abstractmethod
    def mixture(self, state: Any) -> Mixture | GMM:
        """What a state is: a mixture in NumPy, of a family that NumPy knows."""


class InNumPy(Engine):
    """In float64."""

    def __init__(self, x: np.ndarray, weight: np.ndarray | None, arithmetic: Arithmetic, floor: float):
        often = np.ones(len(x)) if weight is None else weight
        beliefs = Beliefs.of(Prior(), Floor(absolute=floor, relative=0.0), x.shape[1])
        self.table = Table(np.asarray(x, np.float64), arithmetic, beliefs, often)

    def from_responsibilities(self, r: Float[np.ndarray, "n k"]) -> Mixture:
        return self._updated(r.T * self.table.weight)

    def begin(self, mixture: Any) -> Mixture:
        return mixture

    def step(self, state: Mixture) -> tuple[Mixture, float]:
        with np.errstate(all="ignore"):  # what is not finite is found out
            seen = self.table.e_step(state)
        if not np.isfinite(seen.log_likelihood):
            raise ill_defined()
        return self._updated(seen.r), seen.log_likelihood

    def mixture(self, state: Mixture) -> Mixture:
        return state

    def _updated(self, r: np.ndarray) -> Mixture:
        try:
            with np.errstate(all="ignore"):
                found = self.table.m_step(r)
        except np.linalg.LinAlgError:
            raise ill_defined() from None
        if not (self.table.arithmetic.thinnest(found.leaf) > 0).all():  # false for NaN too
            raise ill_defined()
        return found


class InJAX(Engine):
    """Compiled, on the default device, in the dtype of the rows; these may miss values (NaN)."""

    def __init__(self, x: np.ndarray, weight: np.ndarray | None, family: Family, floor: float):
        self.identity, self.arithmetic = identity_of(family), arithmetic_of(family)
        gaps = np.isnan(x)
        filled = np.where(gaps, np.nanmean(x, axis=0), x) if gaps.any() else x
        often = None if weight is None else jnp.asarray(weight, x.dtype)
        self.rows = RowsInMemory(jnp.asarray(filled), often)
        self.prior, self.floor = as_arrays(None, Floor(absolute=floor, relative=0.0), x.dtype)
        self.total = float(self.rows.total)
        self.with_gaps = step_with_missing(x, weight, self.prior, self.floor) if gaps.any() else None

    def from_responsibilities(self, r: Float[np.ndarray, "n k"]) -> tuple[GMM, Array | None]:
        share = jnp.asarray(r.T, self.rows.dtype)
        return self.begin(from_responsibilities(self.rows, share, self.prior, self.floor, identity=self.identity))

    def begin(self, mixture: Mixture | GMM) -> tuple[GMM, Array | None]:
        if isinstance(mixture, Mixture):
            known: Any = self.arithmetic  # of whose family it is
            mixture = as_gmm(mixture, known, self.rows.dtype)
        return mixture, None if self.with_gaps else no_bounds(mixture, self.rows)

    def step(self, state: tuple[GMM, Array | None]) -> tuple[tuple[GMM, Array | None], float]:
        gmm, bounds = state
        if self.with_gaps is None:
            found = em_step(gmm, self.rows, self.prior, self.floor, bounds, with_prior=False)
            gmm, bounds, seen = found.gmm, found.bounds, found.log_likelihood
        else:
            gmm, seen, _ = self.with_gaps(gmm)
        mean = float(seen) / self.total
        if not np.isfinite(mean):
            raise ill_defined()
        return (gmm, bounds), mean

    def mixture(self, state: tuple[GMM, Array | None]) -> Mixture | GMM:
        gmm = state[0]
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gmm.covariance)]
        if not all(np.isfinite(leaf).all() for leaf in (np.asarray(gmm.means), *leaves)):
            raise ill_defined()
        return gmm if self.arithmetic is None else in_numpy(gmm)


def in_numpy(gmm: GMM) -> Mixture:
    """A mixture of a family that NumPy knows."""
    (leaf,) = jax.tree.leaves(gmm.covariance)
    return Mixture(*(np.asarray(array, np.float64) for array in (gmm.log_weights, gmm.means, leaf)))


def engine_for(x: np.ndarray, weight: np.ndarray | None, family: Family, k: int, floor: float) -> Engine:
    """The engine that ends first. Rows that are not complete are JAX's. Raises InputError for what is no family."""
    blank_of(family, k, x.shape[1], x.dtype)
    small = None if np.isnan(x).any() else small_arithmetic(x.shape, k, family)
    return InJAX(x, weight, family, floor) if small is None else InNumPy(x, weight, small, floor)


def ill_defined() -> InputError:
    """What is wrong where a covariance is not positive definite, in scikit-learn's words."""
    return InputError(
        "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
        "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
        "scale the input data."
    )

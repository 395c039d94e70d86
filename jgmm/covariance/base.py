"""The contract of a covariance family: the first file to read before adding one.

A covariance is a pytree that holds Σ_k for K components, or one Σ that all components share: its leaves lead
with an axis of K or of 1. The methods are pure and know nothing of weights or of data chunks.

`moments` is linear in the responsibilities r, so statistics of chunks, devices and streams simply add.
They come in the family's own shape (a matrix, a diagonal, a trace), which only the family reads.

A family is entered in `jgmm.tables.COVARIANCES` as a function identity(k, d, dtype) of k identity matrices.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.types import pytree


@pytree
class Prior:
    """An inverse-Wishart prior on covariances, worth `strength` observations of variance `variance`.

    log p(Σ) = −(strength / 2) [log |Σ| + variance · tr Σ⁻¹] + constant, so that the mode given n observations
    with scatter S is Σ = (S + strength · variance · I) / (n + strength): Bishop, Pattern Recognition and Machine
    Learning, appendix B, in the parametrisation by pseudo-counts. `floor` is added to every variance afterwards
    (scikit-learn's reg_covar).

    `relative_floor` · tr Σ_k / D is added to every variance of a full covariance besides: a component with fewer rows
    than features has a singular scatter. None is D · eps of the dtype, the least that keeps a Cholesky factorisation
    of a singular matrix positive (Higham, Accuracy and Stability of Numerical Algorithms, section 10.1): at D = 3,072,
    4e-4 of the mean variance in float32 and 7e-13 in float64. 0 is scikit-learn's formula in any dtype.
    """

    strength: Float[Array, ""] | float = 0.0
    variance: Float[Array, ""] | float = 1.0
    floor: Float[Array, ""] | float = 1e-6
    relative_floor: Float[Array, ""] | float | None = None

    def variance_of(self, scatter: Array, counts: Array) -> Array:
        """(scatter + strength · variance) / (counts + strength) + floor, for scatters along single directions."""
        return (scatter + self.strength * self.variance) / self.total(counts) + self.floor

    def total(self, counts: Array) -> Array:
        """counts + strength, and never zero: a component without rows or prior keeps the floor alone."""
        return jnp.maximum(counts + self.strength, jnp.finfo(counts.dtype).tiny)


class Distances(NamedTuple):
    """(x_n − μ_k)ᵀ Σ_k⁻¹ (x_n − μ_k), where the E-step leaves some of them out (`jgmm.screening`).

    Fields:
        every: x -> those of all components.
        one: (x, k) -> those of component k.
        drift: (Σ' of the same family, μ') -> (σ_k, ν_k) so that for every x, √distance' ≥ σ_k √distance − ν_k.
    """

    every: Callable[[Float[Array, "n d"]], Float[Array, "n k"]]
    one: Callable[[Float[Array, "t d"], Int[Array, ""]], Float[Array, " t"]]
    drift: Callable[[Any, Float[Array, "k d"]], tuple[Float[Array, " k"], Float[Array, " k"]]]


# Logarithms of scales beyond this count as this: exp(30) is 1e13, whose square float32 still holds.
LOG_SCALE = 30.0


def scale_of(raw: Array, epsilon: float) -> Array:
    """exp(raw) + ε, for any real number a positive one."""
    return jnp.exp(jnp.clip(raw, -LOG_SCALE, LOG_SCALE)) + epsilon


def raw_of(scale: Array, epsilon: float) -> Array:
    """The inverse of `scale_of`; scales of ε and less become its smallest."""
    return jnp.log(jnp.maximum(scale - epsilon, jnp.exp(-LOG_SCALE)))


def bounded(y: Array) -> Array:
    """Standardised deviations, cut at the fourth root of the largest number of the dtype (4e9 in float32), so that
    neither their squares nor the gradients of those overflow."""
    largest = jnp.sqrt(jnp.sqrt(jnp.finfo(y.dtype).max))
    return jnp.clip(y, -largest, largest)


class Covariance(abc.ABC):
    """Σ_k for k = 1..K, as a pytree."""

    # The share of pairs (row, component) below which computing chosen ones is cheaper than products for all.
    sparse_below: ClassVar[float] = 0.0

    @abc.abstractmethod
    def mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
        """x -> (x_n − μ_k)ᵀ Σ_k⁻¹ (x_n − μ_k). What depends on the mixture alone is done once, outside."""

    @abc.abstractmethod
    def log_det(self) -> Float[Array, " #k"]:
        """log |Σ_k|."""

    @abc.abstractmethod
    def inverse_trace(self) -> Float[Array, " #k"]:
        """tr Σ_k⁻¹."""

    @abc.abstractmethod
    def colour(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """A_k ε_n with A_k A_kᵀ = Σ_k, for the component k of each row: noise N(0, I) becomes N(0, Σ_k)."""

    @abc.abstractmethod
    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        """Σ_n r_nk (x_n − μ_k)(x_n − μ_k)ᵀ in the family's shape."""

    @abc.abstractmethod
    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior) -> "Covariance":
        """The mode of Σ_k given its scatter matrix in the family's shape, n_k observations and the prior."""

    @abc.abstractmethod
    def variance(self) -> Float[Array, "#k d"]:
        """diag Σ_k."""

    @abc.abstractmethod
    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        """diag(A Σ_k Aᵀ): the variances of the features of A z."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "#k d d"]:
        """Σ_k as a matrix."""

    @property
    def axis_aligned(self) -> bool:
        """Whether Σ_k are diagonal, so that `variance` says all."""
        return False

    def factor(self) -> Float[Array, "#k d d"]:
        """The lower Cholesky factors of Σ_k."""
        dense = self.dense()
        return jnp.sqrt(dense) if self.axis_aligned else jnp.linalg.cholesky(dense, symmetrize_input=False)

    @abc.abstractmethod
    def marginal(self, features: Int[Array, " a"]) -> "Covariance":
        """The covariance of a subset of the features."""

    @abc.abstractmethod
    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Covariance"]:
        """Σ_ab Σ_bb⁻¹ δ_k and Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba: how far the mean of the features a moves when the features
        b lie δ_k off theirs, and the covariance that is left."""

    @abc.abstractmethod
    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """A_k⁻¹ δ_k with A_k A_kᵀ = Σ_k: one deviation for every component becomes standard, and `bounded`. For one
        point in a mixture of its own; for many in one mixture, `mahalanobis` is faster."""

    @abc.abstractmethod
    def unconstrained(self, epsilon: float) -> Float[Array, "#k m"]:
        """Parameters that may be any real numbers: log(scale − ε) of standard deviations or of the diagonal of
        Cholesky factors, and then, in rows, the entries of those below it. m of them are free in a covariance."""

    @abc.abstractmethod
    def constrain(self, raw: Float[Array, "#k m"], epsilon: float) -> "Covariance":
        """The inverse of `unconstrained`. Of self only the structure is read: its leaves may be shapes."""

    def pooled_moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        """Σ_k of `moments`, its axis kept with length 1. A family overrides this where the sum is cheaper."""
        return self.moments(x, r, means).sum(axis=0, keepdims=True)

    @property
    def screened(self) -> bool:
        """Whether distances cost so much that the E-step should leave out those it can prove irrelevant."""
        return False

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """`mahalanobis`, and what screening needs. A family that is screened does better than this, which is true of
        every family: one distance costs as much as all, and nothing is known of the next mixture."""
        every = self.mahalanobis(means)
        nothing = jnp.zeros(means.shape[0], means.dtype)
        return Distances(every, lambda x, k: every(x)[:, k], lambda to, to_means: (nothing, nothing))

"""The contract of a covariance family: the first file to read before adding one.

A covariance is a pytree that holds Σ_k for K components, or one Σ that all components share: its array leaves lead
with an axis of K or of 1, batches of mixtures with further axes before it. The methods are those of one mixture, pure,
and know nothing of weights or of chunks of data. Fields that are part of the structure, such as a rank, are static.

`moments` is linear in the responsibilities r, so statistics of chunks, devices and streams simply add. They come in the
family's own shape (a matrix, a diagonal, a trace), which only the family reads.

A family whose Σ_k are diagonal extends `AxisAligned` and says seven things; any other extends `Covariance`. A function
of the library takes its name in `jgmm.registry.COVARIANCES`, the class, or a function identity(k, d, dtype).
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.prior import Floor, Prior
from jgmm.errors import InputError, short
from jgmm.numerics.distances import squared_distances
from jgmm.numerics.linalg import matmul
from jgmm.registry import COVARIANCES

# A covariance family: its name, its class, or a function (k, d, dtype) -> Covariance.
Family = Any
Scales = Literal["features", "common", "none"]


class Distances(NamedTuple):
    """(x_n − μ_k)ᵀ Σ_k⁻¹ (x_n − μ_k), where the E-step leaves some of them out (`jgmm.em.screening`).

    Attributes:
        every: x -> those of all components.
        leaves: What `one` knows of every component [K, ...].
        one: (x, leaf) -> those of the component of a leaf.
        drift: (Σ' of the same family, μ') -> (σ_k, ν_k) so that for every x, √distance' ≥ σ_k √distance − ν_k.
    """

    every: Callable[[Float[Array, "n d"]], Float[Array, "n k"]]
    leaves: Any
    one: Callable[[Float[Array, "t d"], Any], Float[Array, " t"]]
    drift: Callable[[Any, Float[Array, "k d"]], tuple[Float[Array, " k"], Float[Array, " k"]]]


class Covariance(abc.ABC):
    """Σ_k for k = 1..K, as a pytree."""

    if TYPE_CHECKING:  # attributes of the class in most families

        @property
        def name(self) -> str:
            """What the family is called, in the registry and in checkpoints."""
            ...

        @property
        def scales(self) -> Scales:
            """What diag(s) Σ diag(s) stays in the family for: every s > 0, one number for all features, or 1 alone."""
            ...

    else:
        scales = "none"
    # The share of pairs (row, component) below which computing chosen ones is cheaper than products for all.
    sparse_below: ClassVar[float] = 0.0

    @classmethod
    @abc.abstractmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Covariance":
        """The simplest member of the family, for K components and D features: where it can be, identity matrices."""

    @classmethod
    def of_rank(cls, rank: Any) -> Family:
        """The members of the family that have so many columns. Raises InputError for a family without a rank."""
        raise InputError(f"{cls.__name__} covariances have no rank: low-rank ones do.")

    @abc.abstractmethod
    def log_det(self) -> Float[Array, " #k"]:
        """log |Σ_k|."""

    @abc.abstractmethod
    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """A_k⁻¹ δ_k with A_k A_kᵀ = Σ_k: one deviation for every component becomes standard, and `bounded`. For one
        point in a mixture of its own; for many in one mixture, `squared_mahalanobis` is faster."""

    @abc.abstractmethod
    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """A_k ε_n with A_k A_kᵀ = Σ_k, for the component k of each row: noise N(0, I) becomes N(0, Σ_k)."""

    @abc.abstractmethod
    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        """Σ_n r_nk (x_n − μ_k)(x_n − μ_k)ᵀ in the family's shape."""

    @abc.abstractmethod
    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "Covariance":
        """The mode of Σ_k given its scatter matrix in the family's shape, n_k observations and the prior; `floor` is
        added to it afterwards."""

    @abc.abstractmethod
    def variance(self) -> Float[Array, "#k d"]:
        """diag Σ_k."""

    @abc.abstractmethod
    def dense(self) -> Float[Array, "#k d d"]:
        """Σ_k as a matrix."""

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
    def unconstrained(self, epsilon: float) -> Float[Array, "#k m"]:
        """Parameters that may be any real numbers: log(scale − ε) of standard deviations or of the diagonal of
        Cholesky factors, and then, in rows, the entries of those below it. m of them are free in a covariance."""

    @abc.abstractmethod
    def constrain(self, raw: Float[Array, "#k m"], epsilon: float) -> "Covariance":
        """The inverse of `unconstrained`. Of self only the structure is read: its leaves may be shapes."""

    # What follows has a default, which a family overrides where it can do better.

    @property
    def axis_aligned(self) -> bool:
        """Whether Σ_k are diagonal, so that `variance` says all."""
        return False

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
        """x -> (x_n − μ_k)ᵀ Σ_k⁻¹ (x_n − μ_k). What depends on the mixture alone is done once, outside."""
        return lambda x: jax.lax.map(lambda row: (self.whiten(row[None] - means) ** 2).sum(axis=1), x)

    def inverse_diagonal(self) -> Float[Array, "#k d"]:
        """diag Σ_k⁻¹."""
        return jnp.diagonal(jnp.linalg.inv(self.dense()), axis1=1, axis2=2)

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        """diag(A Σ_k Aᵀ): the variances of the features of A z."""
        return jax.lax.map(lambda covariance: (matmul(a, covariance) * a).sum(axis=1), self.dense())

    def factor(self) -> Float[Array, "#k d d"]:
        """The lower Cholesky factors of Σ_k."""
        return jnp.linalg.cholesky(self.dense(), symmetrize_input=False)

    def scaled(self, s: Float[Array, " d"]) -> "Covariance":
        """diag(s) Σ_k diag(s). Raises InputError where that leaves the family (`scales`)."""
        raise InputError(f"{self.name} covariances of scaled features are of another family: use encoder='identity'.")

    def parameter(self) -> Array:
        """Σ_k as scikit-learn writes it for this family: [K, D, D], [K, D] or [K], or without K where it is shared.

        Raises:
            InputError: For a family that has no such form.
        """
        raise InputError(f"{self.name} covariances have no parameters in scikit-learn's form: use dense().")

    @classmethod
    def from_parameter(cls, parameter: Array, k: int, d: int) -> "Covariance":
        """The inverse of `parameter`. Raises InputError for a wrong shape, and for a family that has none."""
        raise InputError(f"{cls.__name__} has no parameters in scikit-learn's form: make one by its constructor.")

    def squares(self, x: Float[Array, "k d"], weights: Float[Array, " k"]) -> Array:
        """w_k x_k x_kᵀ in the family's shape, one row for every component. A family overrides this where the moments of
        K rows for all K cost more than that."""
        return self.moments(x, jnp.diag(weights), jnp.zeros_like(x))

    def pooled_moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        """Σ_k of `moments`, its axis kept with length 1. A family overrides this where the sum is cheaper."""
        return self.moments(x, r, means).sum(axis=0, keepdims=True)

    @property
    def additive(self) -> bool:
        """Whether statistics taken under different covariances may be added."""
        return True

    @property
    def redundant(self) -> int:
        """How many of the numbers of `unconstrained` could be given up for every covariance without a loss."""
        return 0

    @property
    def screened(self) -> bool:
        """Whether distances cost so much that the E-step should leave out those it can prove irrelevant."""
        return False

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """`squared_mahalanobis`, and what screening needs. A family that is screened does better than this, which is
        true of every family: one distance costs as much as all, and nothing is known of the next mixture."""
        every = self.squared_mahalanobis(means)
        nothing = jnp.zeros(means.shape[0], means.dtype)
        k = jnp.arange(means.shape[0])
        return Distances(every, k, lambda x, k: every(x)[:, k], lambda to, to_means: (nothing, nothing))


class AxisAligned(Covariance):
    """Σ_k that are diagonal: `variance` says all but how they are learned, so a family adds `identity`, `moments`,
    `update`, `variance`, `marginal`, `unconstrained` and `constrain`."""

    @property
    def axis_aligned(self) -> bool:
        return True

    def log_det(self) -> Float[Array, " #k"]:
        return jnp.log(self.variance()).sum(axis=1)

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        return bounded(deviation / jnp.sqrt(self.variance()))

    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        deviation = jnp.sqrt(self.variance())
        return deviation[jnp.minimum(component, deviation.shape[0] - 1)] * noise

    def dense(self) -> Float[Array, "#k d d"]:
        variance = self.variance()
        return variance[:, :, None] * jnp.eye(variance.shape[1], dtype=variance.dtype)[None]

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Covariance"]:
        shift = jnp.zeros((deviation.shape[0], features.shape[0]), deviation.dtype)
        return shift, self.marginal(features)

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
        return squared_distances(means, 1 / self.variance())

    def inverse_diagonal(self) -> Float[Array, "#k d"]:
        return 1 / self.variance()

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return matmul(self.variance(), (a * a).T)

    def factor(self) -> Float[Array, "#k d d"]:
        return jnp.sqrt(self.dense())


def identity_of(family: Family) -> Callable[..., Covariance]:
    """identity(k, d, dtype) of a family given by name, class or function. Raises InputError for an unknown name."""
    found = COVARIANCES.resolve(family)
    return getattr(found, "identity", found)


def blank_of(family: Family, k: int, d: int, dtype: Any = None) -> Any:
    """The shapes of the covariances of a family. Raises InputError for an unknown name, and what makes none."""
    identity = identity_of(family)
    try:
        made = jax.eval_shape(lambda: identity(k, d, dtype))
    except TypeError as error:
        raise InputError(f"the family {family!r} is called as identity(k, d, dtype), and fails: {error}") from error
    if not isinstance(made, Covariance):
        raise InputError(f"the family {family!r} makes no covariances: identity(k, d, dtype) is {short(made)}.")
    return made


def component_of(covariance: Covariance, k: Array) -> Covariance:
    """Σ_k of one component, as a covariance of its own: leaves lead with K, or with 1 for all."""
    return jax.tree.map(lambda leaf: leaf[jnp.minimum(k, leaf.shape[0] - 1)][None], covariance)


def each_of(covariance: Covariance, k: int) -> Covariance:
    """Covariances of which every one of k is a covariance of its own: leaves [K, 1, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (k, 1, *leaf.shape[1:])), covariance)


# Logarithms of scales beyond this count as this: exp(30) is 1e13, whose square float32 still holds.
LOG_SCALE = 30.0


def scale_of(raw: Array, epsilon: float) -> Array:
    """exp(raw) + ε, for any real number a positive one."""
    return jnp.exp(jnp.clip(raw, -LOG_SCALE, LOG_SCALE)) + epsilon


def raw_of(scale: Array, epsilon: float) -> Array:
    """The inverse of `scale_of`; scales of ε and less become its smallest."""
    return jnp.log(jnp.maximum(scale - epsilon, jnp.exp(-LOG_SCALE)))


def bounded(y: Array) -> Array:
    """Standardized deviations, cut at the fourth root of the largest number of the dtype (4e9 in float32), so that
    neither their squares nor the gradients of those overflow."""
    largest = jnp.sqrt(jnp.sqrt(jnp.finfo(y.dtype).max))
    return jnp.clip(y, -largest, largest)

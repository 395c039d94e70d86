"""One covariance shared by all components: a wrapper around any family."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance, identity_of
from jgmm.covariance.diag import Diag
from jgmm.covariance.full import Full
from jgmm.covariance.prior import Floor, Prior
from jgmm.covariance.spherical import Spherical
from jgmm.numerics.pytree import pytree


@pytree
class Tied(Covariance):
    """`shared` holds one component. The moments are the sum over all components; the rest is the family's own."""

    shared: Covariance

    @property
    def name(self) -> str:
        return "tied" if isinstance(self.shared, Full) else f"tied-{self.shared.name}"

    @property
    def scales(self) -> Any:
        return self.shared.scales

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Tied":
        """Full matrices; the functions below are those of other families."""
        return cls(Full.identity(1, d, dtype))

    @classmethod
    def from_parameter(cls, parameter: Array, k: int, d: int) -> "Tied":
        """One matrix [D, D]; the functions below are those of other families."""
        return tied_full.from_parameter(parameter, k, d)

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        return self.shared.squared_mahalanobis(means)

    def log_det(self) -> Float[Array, " 1"]:
        return self.shared.log_det()

    def inverse_diagonal(self) -> Float[Array, "1 d"]:
        return self.shared.inverse_diagonal()

    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return self.shared.color(jnp.zeros_like(component), noise)

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return self.shared.pooled_moments(x, r, means)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "Tied":
        return type(self)(self.shared.update(scatter, counts.sum(keepdims=True), prior, floor))

    def variance(self) -> Float[Array, "1 d"]:
        return self.shared.variance()

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "1 p"]:
        return self.shared.image_variance(a)

    def dense(self) -> Float[Array, "1 d d"]:
        return self.shared.dense()

    @property
    def axis_aligned(self) -> bool:
        return self.shared.axis_aligned

    @property
    def additive(self) -> bool:
        return self.shared.additive

    @property
    def redundant(self) -> int:
        return self.shared.redundant

    def factor(self) -> Float[Array, "1 d d"]:
        return self.shared.factor()

    def marginal(self, features: Int[Array, " a"]) -> "Tied":
        return type(self)(self.shared.marginal(features))

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Tied"]:
        shift, left = self.shared.conditional(features, given, deviation)
        return shift, type(self)(left)

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        return self.shared.whiten(deviation)

    def unconstrained(self, epsilon: float) -> Float[Array, "1 m"]:
        return self.shared.unconstrained(epsilon)

    def constrain(self, raw: Float[Array, "1 m"], epsilon: float) -> "Tied":
        return type(self)(self.shared.constrain(raw, epsilon))

    def scaled(self, s: Float[Array, " d"]) -> "Tied":
        return type(self)(self.shared.scaled(s))

    def parameter(self) -> Array:
        return self.shared.parameter()[0]


class TiedFamily:
    """Tied covariances of a family: what the registry holds for each."""

    def __init__(self, shared: Any):
        self.shared = shared

    def identity(self, k: int, d: int, dtype: Any = None) -> Tied:
        """One identity matrix for all k components."""
        return Tied(identity_of(self.shared)(1, d, dtype))

    def __call__(self, k: int, d: int, dtype: Any = None) -> Tied:
        return self.identity(k, d, dtype)

    def of_rank(self, rank: Any) -> "TiedFamily":
        """Tied covariances of so many columns. Raises InputError for a family without a rank."""
        return TiedFamily(self.shared.of_rank(rank))

    def from_parameter(self, parameter: Array, k: int, d: int) -> Tied:
        """One covariance in scikit-learn's form: [D, D], [D] or a number."""
        return Tied(self.shared.from_parameter(parameter[None], 1, d))


tied_full, tied_diag, tied_spherical = TiedFamily(Full), TiedFamily(Diag), TiedFamily(Spherical)

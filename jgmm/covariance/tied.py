"""One covariance shared by all components: a wrapper around any family."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance, Prior
from jgmm.covariance.diag import Diag
from jgmm.covariance.full import Full
from jgmm.covariance.spherical import Spherical
from jgmm.types import pytree


@pytree
class Tied(Covariance):
    """`shared` holds one component. The moments are the sum over all components; the rest is the family's own."""

    shared: Covariance

    def mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        return self.shared.mahalanobis(means)

    def log_det(self) -> Float[Array, " 1"]:
        return self.shared.log_det()

    def inverse_trace(self) -> Float[Array, " 1"]:
        return self.shared.inverse_trace()

    def colour(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return self.shared.colour(jnp.zeros_like(component), noise)

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return self.shared.pooled_moments(x, r, means)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior) -> "Tied":
        return type(self)(self.shared.update(scatter, counts.sum(keepdims=True), prior))

    def variance(self) -> Float[Array, "1 d"]:
        return self.shared.variance()

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "1 p"]:
        return self.shared.image_variance(a)

    def dense(self) -> Float[Array, "1 d d"]:
        return self.shared.dense()

    @property
    def axis_aligned(self) -> bool:
        return self.shared.axis_aligned

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


def tied_full(k: int, d: int, dtype: Any = None) -> Tied:
    """One full matrix for all components."""
    return Tied(Full.identity(1, d, dtype))


def tied_diag(k: int, d: int, dtype: Any = None) -> Tied:
    """One diagonal matrix for all components."""
    return Tied(Diag.identity(1, d, dtype))


def tied_spherical(k: int, d: int, dtype: Any = None) -> Tied:
    """One variance for all components and features."""
    return Tied(Spherical.identity(1, d, dtype))

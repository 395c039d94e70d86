"""Diagonal covariances: Σ_k = diag(σ²_k)."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import AxisAligned, Scales, raw_of, scale_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.errors import check
from jgmm.numerics.distances import second_moments
from jgmm.numerics.pytree import pytree


@pytree
class Diag(AxisAligned):
    """One variance for every component and feature.

    >>> import jax.numpy as jnp
    >>> from jgmm.covariance.diag import Diag
    >>> Diag(jnp.array([[1.0, 4.0]])).dense().tolist()
    [[[1.0, 0.0], [0.0, 4.0]]]
    """

    variances: Float[Array, "*b k d"]

    name: ClassVar[str] = "diag"
    scales: ClassVar[Scales] = "features"
    sparse_below: ClassVar[float] = 0.05

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Diag":
        return cls(jnp.ones((k, d), dtype))

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return second_moments(x, r, means, 1 / self.variances)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "Diag":
        believed = prior.strength * prior.variances(*scatter.shape)
        mode = (jnp.maximum(scatter, 0) + believed) / prior.total(counts)[:, None]
        return type(self)(mode + floor.absolute)

    def variance(self) -> Float[Array, "#k d"]:
        return self.variances

    def marginal(self, features: Int[Array, " a"]) -> "Diag":
        return type(self)(self.variances[:, features])

    def unconstrained(self, epsilon: float) -> Float[Array, "#k d"]:
        return raw_of(jnp.sqrt(self.variances), epsilon)

    def constrain(self, raw: Float[Array, "#k d"], epsilon: float) -> "Diag":
        return type(self)(scale_of(raw, epsilon) ** 2)

    def scaled(self, s: Float[Array, " d"]) -> "Diag":
        return type(self)(self.variances * (s * s)[None])

    def parameter(self) -> Float[Array, "k d"]:
        return self.variances

    @classmethod
    def from_parameter(cls, parameter: Array, k: int, d: int) -> "Diag":
        check(parameter.shape == (k, d), f"diagonal covariances must have shape {(k, d)}, got {parameter.shape}.")
        return cls(parameter)

"""Spherical covariances: Σ_k = σ²_k I."""

from dataclasses import field
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import AxisAligned, Scales, raw_of, scale_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.errors import check
from jgmm.numerics.distances import second_moments, squared_distances
from jgmm.numerics.pytree import pytree


@pytree
class Spherical(AxisAligned):
    """One variance for every component. Its moments are traces.

    >>> import jax.numpy as jnp
    >>> from jgmm.covariance.spherical import Spherical
    >>> print(Spherical(jnp.array([4.0]), 3).log_det().round(3))
    [4.1590004]
    """

    variances: Float[Array, "*b k"]
    n_features: int = field(metadata={"static": True})

    name: ClassVar[str] = "spherical"
    scales: ClassVar[Scales] = "common"

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Spherical":
        return cls(jnp.ones(k, dtype), d)

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Any:
        return squared_distances(means, 1 / self.variances[:, None])

    def log_det(self) -> Float[Array, " #k"]:
        return self.n_features * jnp.log(self.variances)

    def inverse_diagonal(self) -> Float[Array, "#k d"]:
        return 1 / self.variance()

    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return jnp.sqrt(self.variances)[component, None] * noise

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return second_moments(x, r, means, 1 / self.variances[:, None]).sum(axis=1)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "Spherical":
        believed = prior.strength * prior.variances(scatter.shape[0], self.n_features).mean(axis=1)
        mode = (jnp.maximum(scatter, 0) / self.n_features + believed) / prior.total(counts)
        return type(self)(mode + floor.absolute, self.n_features)

    def variance(self) -> Float[Array, "#k d"]:
        return jnp.broadcast_to(self.variances[:, None], (self.variances.shape[0], self.n_features))

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return self.variances[:, None] * (a * a).sum(axis=1)[None]

    def marginal(self, features: Int[Array, " a"]) -> "Spherical":
        return type(self)(self.variances, features.shape[0])

    def unconstrained(self, epsilon: float) -> Float[Array, "#k 1"]:
        return raw_of(jnp.sqrt(self.variances)[:, None], epsilon)

    def constrain(self, raw: Float[Array, "#k 1"], epsilon: float) -> "Spherical":
        return type(self)(scale_of(raw[:, 0], epsilon) ** 2, self.n_features)

    def scaled(self, s: Float[Array, " d"]) -> "Spherical":
        """As in the contract, for factors that are all the same."""
        return type(self)(self.variances * s[0] * s[0], self.n_features)

    def parameter(self) -> Float[Array, " k"]:
        return self.variances

    @classmethod
    def from_parameter(cls, parameter: Array, k: int, d: int) -> "Spherical":
        check(parameter.shape == (k,), f"spherical covariances must have shape {(k,)}, got {parameter.shape}.")
        return cls(parameter, d)

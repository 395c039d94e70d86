"""Diagonal covariances: Σ_k = diag(σ²_k)."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.centred import second_moments, squared_distances
from jgmm.covariance.base import Covariance, Prior, bounded, raw_of, scale_of
from jgmm.products import matmul
from jgmm.types import pytree


@pytree
class Diag(Covariance):
    """One variance for every component and feature."""

    variances: Float[Array, "*b k d"]

    sparse_below: ClassVar[float] = 0.05

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Diag":
        return cls(jnp.ones((k, d), dtype))

    def mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        return squared_distances(means, 1 / self.variances)

    def log_det(self) -> Float[Array, " #k"]:
        return jnp.log(self.variances).sum(axis=1)

    def inverse_trace(self) -> Float[Array, " #k"]:
        return (1 / self.variances).sum(axis=1)

    def colour(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return jnp.sqrt(self.variances)[component] * noise

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return second_moments(x, r, means, 1 / self.variances)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior) -> "Diag":
        return type(self)(prior.variance_of(jnp.maximum(scatter, 0), counts[:, None]))

    def variance(self) -> Float[Array, "#k d"]:
        return self.variances

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return matmul(self.variances, (a * a).T)

    @property
    def axis_aligned(self) -> bool:
        return True

    def dense(self) -> Float[Array, "#k d d"]:
        return self.variances[:, :, None] * jnp.eye(self.variances.shape[1], dtype=self.variances.dtype)[None]

    def marginal(self, features: Int[Array, " a"]) -> "Diag":
        return type(self)(self.variances[:, features])

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Diag"]:
        shift = jnp.zeros((deviation.shape[0], features.shape[0]), deviation.dtype)
        return shift, self.marginal(features)

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        return bounded(deviation / jnp.sqrt(self.variances))

    def unconstrained(self, epsilon: float) -> Float[Array, "#k d"]:
        return raw_of(jnp.sqrt(self.variances), epsilon)

    def constrain(self, raw: Float[Array, "#k d"], epsilon: float) -> "Diag":
        return type(self)(scale_of(raw, epsilon) ** 2)

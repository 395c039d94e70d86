"""Spherical covariances: Σ_k = σ²_k I."""

from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.centred import second_moments, squared_distances
from jgmm.covariance.base import Covariance, Prior, bounded, raw_of, scale_of
from jgmm.types import pytree


@pytree
class Spherical(Covariance):
    """One variance for every component. Its moments are traces."""

    variances: Float[Array, "*b k"]
    n_features: int = field(metadata={"static": True})

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Spherical":
        return cls(jnp.ones(k, dtype), d)

    def mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        return squared_distances(means, 1 / self.variances[:, None])

    def log_det(self) -> Float[Array, " #k"]:
        return self.n_features * jnp.log(self.variances)

    def inverse_trace(self) -> Float[Array, " #k"]:
        return self.n_features / self.variances

    def colour(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return jnp.sqrt(self.variances)[component, None] * noise

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        return second_moments(x, r, means, 1 / self.variances[:, None]).sum(axis=1)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior) -> "Spherical":
        mean_scatter = jnp.maximum(scatter, 0) / self.n_features
        return type(self)(prior.variance_of(mean_scatter, counts), self.n_features)

    def variance(self) -> Float[Array, "#k d"]:
        return jnp.broadcast_to(self.variances[:, None], (self.variances.shape[0], self.n_features))

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return self.variances[:, None] * (a * a).sum(axis=1)[None]

    @property
    def axis_aligned(self) -> bool:
        return True

    def dense(self) -> Float[Array, "#k d d"]:
        return self.variances[:, None, None] * jnp.eye(self.n_features, dtype=self.variances.dtype)[None]

    def marginal(self, features: Int[Array, " a"]) -> "Spherical":
        return type(self)(self.variances, features.shape[0])

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Spherical"]:
        shift = jnp.zeros((deviation.shape[0], features.shape[0]), deviation.dtype)
        return shift, self.marginal(features)

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        return bounded(deviation / jnp.sqrt(self.variances)[:, None])

    def unconstrained(self, epsilon: float) -> Float[Array, "#k 1"]:
        return raw_of(jnp.sqrt(self.variances)[:, None], epsilon)

    def constrain(self, raw: Float[Array, "#k 1"], epsilon: float) -> "Spherical":
        return type(self)(scale_of(raw[:, 0], epsilon) ** 2, self.n_features)

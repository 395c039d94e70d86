"""No encoder: codes are x itself."""

from dataclasses import field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance
from jgmm.encoder.base import Encoder
from jgmm.mixture import GMM
from jgmm.numerics.pytree import pytree


@pytree
class Identity(Encoder):
    """z = x.

    >>> import jax.numpy as jnp
    >>> from jgmm.encoder.identity import Identity
    >>> Identity.fit(jnp.zeros((5, 3))).n_codes
    3
    """

    n_codes: int = field(metadata={"static": True})

    name: ClassVar[str] = "identity"

    @classmethod
    def fit(cls, x: Float[Array, "n p"]) -> "Identity":
        return cls(x.shape[1])

    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n p"]:
        return x

    def decode(self, z: Float[Array, "n p"], residual: Float[Array, "n 0"]) -> Float[Array, "n p"]:
        return z

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a p"]:
        return jax.nn.one_hot(features, self.n_codes)

    def log_det(self) -> float:
        return 0.0

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        return covariance.variance()

    def code_variances(self) -> Float[Array, " p"]:
        return jnp.ones(self.n_codes)

    def encode_mixture(self, gmm: GMM) -> GMM:
        return gmm

    def decode_mixture(self, gmm: GMM) -> GMM:
        return gmm

"""Zero-phase whitening (ZCA): whitened principal components, turned back into the coordinates of x.

    z = W (x − mean),      W = V diag(1/√(e + ε)) Vᵀ

with the eigenvectors V and eigenvalues e of the covariance of x (Bell and Sejnowski, The "independent components" of
natural scenes are edge filters, 1997). Whitened images remain images, and every direction has a variance near 1, so
that a squared loss sees all of them.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from jgmm.covariance.base import Covariance
from jgmm.encoder.base import Encoder
from jgmm.encoder.scatter import mean_and_covariance
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree


@pytree
class ZCA(Encoder):
    """z = W (x − mean), both of them symmetric: W, and `color`, its inverse.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jgmm.encoder.zca import fit_zca
    >>> x = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([1.0, 2.0, 3.0])
    >>> z = fit_zca(x, epsilon=0.0).encode(jnp.asarray(x, jnp.float32))
    >>> bool(abs(np.cov(z.T, bias=True) - np.eye(3)).max() < 1e-5)
    True
    """

    mean: Float[Array, " p"]
    whiten: Float[Array, "p p"]
    color: Float[Array, "p p"]

    name: ClassVar[str] = "zca"

    @classmethod
    def fit(cls, x: Float[Array, "n p"]) -> "ZCA":
        return fit_zca(np.asarray(x), dtype=x.dtype)

    @property
    def n_codes(self) -> int:
        return self.mean.shape[0]

    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n p"]:
        return matmul(x - self.mean[None], self.whiten)

    def decode(self, z: Float[Array, "n p"], residual: Float[Array, "n 0"]) -> Float[Array, "n p"]:
        return matmul(z, self.color) + self.mean[None]

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a p"]:
        return self.color[features]

    def log_det(self) -> Float[Array, ""]:
        return jnp.linalg.slogdet(self.whiten)[1]

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        return covariance.image_variance(self.color)

    def code_variances(self) -> Float[Array, " p"]:
        return (self.color**2).sum(axis=0)


def fit_zca(
    x: Real[np.ndarray, "n p"],
    *,
    epsilon: float = 1e-3,
    scale: float = 1.0,
    shift: float = 0.0,
    dtype: Any = jnp.float32,
) -> ZCA:
    """The whitening of the rows of scale · x + shift, computed in float64.

    Args:
        x: Numbers of any type; 8-bit pixels need not be converted first (`scale`, `shift`).
        epsilon: Added to every eigenvalue, in squared units of scale · x.
        dtype: Of the encoder.
    """
    mean, covariance = mean_and_covariance(x, scale)
    e, v = np.linalg.eigh(covariance)
    deviation = np.sqrt(np.maximum(e, 0) + epsilon)

    def matrix(diagonal: np.ndarray) -> Array:
        return jnp.asarray((v * diagonal) @ v.T, dtype)

    return ZCA(jnp.asarray(mean + shift, dtype), matrix(1 / deviation), matrix(deviation))

"""Whitened principal components, turned to the axes of another orthonormal basis.

    z = T diag(scale)⁻¹ V (x − mean),      x = mean + Vᵀ diag(scale) Tᵀ z,      log |∂z/∂x| = −Σ log scale

with a rotation T (`jgmm.encoder.bases`). Codes are white whatever T is; what T changes is what a diagonal covariance
can say of them.
"""

from dataclasses import field, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance
from jgmm.encoder.base import Encoder
from jgmm.encoder.bases import turn
from jgmm.encoder.pca import PCA
from jgmm.errors import check
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree

# How far a rotation there and back may take a vector, relative to its largest entry.
TOLERANCE = 1e-4


@pytree
class RotatedPCA(Encoder):
    """The maps as matrices: rows of `whiten` give codes and residual of x − mean, rows of `color` take them back.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jgmm.encoder.rotated import RotatedPCA
    >>> x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 3)) * [3.0, 1.0, 0.1], jnp.float32)
    >>> bool(abs(np.cov(RotatedPCA.fit(x).encode(x).T, bias=True) - np.eye(3)).max() < 1e-4)
    True
    """

    mean: Float[Array, " p"]
    whiten: Float[Array, "m p"]
    color: Float[Array, "m p"]
    log_volume: Float[Array, ""]
    n_codes: int = field(metadata={"static": True})

    name: ClassVar[str] = "rotated-pca"
    initializer: ClassVar[str] = "log-energy"

    @classmethod
    def fit(cls, x: Float[Array, "n p"]) -> "RotatedPCA":
        """Whitening that moves rows as little as can be: the axes are those of the features (ZCA)."""
        pca = PCA.fit(x)
        return cls.of(pca, turn(np.eye(x.shape[1]), np.asarray(pca.components[: pca.n_codes], np.float64)))

    @classmethod
    def of(cls, pca: PCA, rotation: Float[np.ndarray, "d d"]) -> "RotatedPCA":
        """The codes of a PCA, turned; its residual stays.

        Raises:
            InputError: For a rotation that is not one, or of another number of codes.
        """
        d, dtype = pca.n_codes, pca.components.dtype
        check(np.shape(rotation) == (d, d), f"the rotation must have shape {(d, d)}, got {np.shape(rotation)}.")
        probe = np.random.default_rng(0).normal(size=d)  # what comes back unchanged, does so for all vectors
        orthonormal = np.abs(rotation @ (probe @ rotation) - probe).max() < TOLERANCE * np.abs(probe).max()
        check(orthonormal, "the rotation is none: its rows must be orthonormal.")
        v, scale = np.asarray(pca.components, np.float64), np.asarray(pca.scale, np.float64)[:, None]

        def turned(rows: np.ndarray) -> Array:
            return jnp.asarray(np.concatenate([rotation @ rows[:d], rows[d:]]), dtype)

        return cls(pca.mean, turned(v / scale), turned(v * scale), jnp.asarray(-np.log(scale).sum(), dtype), d)

    def turned(self, turns: Float[np.ndarray, "g b b"]) -> "RotatedPCA":
        """The same with each b codes that follow each other turned by a rotation of their own.

        Raises:
            InputError: For turns of another number of codes.
        """
        g, b, _ = turns.shape
        check(g * b == self.n_codes, f"the turns are of {g * b} codes, the encoder has {self.n_codes}.")

        def rows(matrix: Array) -> Array:
            codes = np.asarray(matrix[: self.n_codes], np.float64).reshape(g, b, -1)
            return jnp.concatenate([jnp.asarray((turns @ codes).reshape(g * b, -1), matrix.dtype), matrix[g * b :]])

        return replace(self, whiten=rows(self.whiten), color=rows(self.color))

    @property
    def n_residual(self) -> int:
        return self.whiten.shape[0] - self.n_codes

    @property
    def has_density(self) -> bool:
        return self.whiten.shape[0] == self.whiten.shape[1]

    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
        return matmul(x - self.mean[None], self.whiten[: self.n_codes].T)

    def residual(self, x: Float[Array, "n p"]) -> Float[Array, "n q"]:
        return matmul(x - self.mean[None], self.whiten[self.n_codes :].T)

    def decode(self, z: Float[Array, "n d"], residual: Float[Array, "n q"]) -> Float[Array, "n p"]:
        return self.mean[None] + matmul(jnp.concatenate([z, residual], axis=1), self.color)

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a m"]:
        return self.color[:, features].T

    def log_det(self) -> Float[Array, ""]:
        return self.log_volume

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        codes, rest = self.color[: self.n_codes], self.color[self.n_codes :]
        return covariance.image_variance(codes.T) + (rest**2).sum(axis=0)[None]

    def code_variances(self) -> Float[Array, " d"]:
        return (self.color[: self.n_codes] ** 2).sum(axis=1)

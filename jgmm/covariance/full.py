"""Full covariances, held as lower Cholesky factors: Σ_k = L_k L_kᵀ.

A component with fewer rows than features has a singular scatter. Beside the prior's floor, every variance gets
eps · tr Σ_k, the least that keeps a Cholesky factorisation of a singular matrix positive in its dtype (Higham,
Accuracy and Stability of Numerical Algorithms, section 10.1): 1e-7 of the trace in float32, nothing in float64.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int

from jgmm.centred import middle, squared_distances
from jgmm.covariance.base import Covariance, Prior
from jgmm.products import grouped_matvec, matmul
from jgmm.types import pytree


@pytree
class Full(Covariance):
    """One symmetric positive-definite matrix for every component."""

    cholesky: Float[Array, "k d d"]

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Full":
        return cls(jnp.tile(jnp.eye(d, dtype=dtype)[None], (k, 1, 1)))

    @classmethod
    def from_dense(cls, covariance: Float[Array, "k d d"]) -> "Full":
        """From the matrices Σ_k; NaN where one is not positive definite."""
        # One matrix at a time: a batched factorisation holds several copies of all of them.
        return cls(jax.lax.map(lambda c: jnp.linalg.cholesky(c, symmetrize_input=False), covariance))

    def inverse_factors(self) -> Float[Array, "k d d"]:
        """L_k⁻¹. Inverting once and multiplying beats a triangular solve for every chunk of rows."""
        eye = jnp.eye(self.cholesky.shape[-1], dtype=self.cholesky.dtype)
        return jax.lax.map(lambda factor: solve_triangular(factor, eye, lower=True), self.cholesky)

    def mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        whiteners = self.inverse_factors()
        if whiteners.shape[0] == 1 < means.shape[0]:  # shared: whiten the rows once for all components
            whitener, origin = whiteners[0], middle(means)
            unit = jnp.ones((1, 1), means.dtype)
            distances = squared_distances(matmul(means - origin, whitener.T), unit)
            return lambda x: distances(matmul(x - origin, whitener.T))

        def whitened_norms(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
            def component(_: None, leaf: tuple[Array, Array]) -> tuple[None, Array]:
                mean, whitener = leaf
                y = matmul(x - mean[None], whitener.T)  # (N, D)
                return None, jnp.sum(y * y, axis=1)

            return jax.lax.scan(component, None, (means, whiteners))[1].T

        return whitened_norms

    def log_det(self) -> Float[Array, " #k"]:
        return 2 * jnp.log(jnp.diagonal(self.cholesky, axis1=1, axis2=2)).sum(axis=1)

    def inverse_trace(self) -> Float[Array, " #k"]:
        return (self.inverse_factors() ** 2).sum(axis=(1, 2))

    def colour(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return grouped_matvec(self.cholesky, component, noise)

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        def component(_: None, leaf: tuple[Array, Array]) -> tuple[None, Array]:
            mean, weight = leaf
            y = x - mean[None]
            return None, matmul((y * weight[:, None]).T, y)  # (D, D)

        return jax.lax.scan(component, None, (means, r.T))[1]

    def pooled_moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        # With m_n = Σ_k r_nk μ_k / s_n and s_n = Σ_k r_nk:  Σ_nk r_nk (x_n − μ_k)(x_n − μ_k)ᵀ
        #   = Σ_n s_n (x_n − m_n)(x_n − m_n)ᵀ + ½ Σ_kl G_kl (μ_k − μ_l)(μ_k − μ_l)ᵀ,  G_kl = Σ_n r_nk r_nl / s_n:
        # one product for all components, and no difference of large numbers.
        weight = r.sum(axis=1, keepdims=True)
        share = r / jnp.where(weight > 0, weight, 1)
        centres = means - middle(means)
        y = x - middle(means) - matmul(share, centres)
        within = matmul((y * weight).T, y)
        overlap = matmul(r.T, share)
        overlap = overlap - jnp.diag(jnp.diagonal(overlap))
        between = overlap.sum(axis=1, keepdims=True) * centres - matmul(overlap, centres)
        return (within + matmul(centres.T, between))[None]

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior) -> "Full":
        eye = jnp.eye(scatter.shape[-1], dtype=scatter.dtype)
        pull = prior.strength * prior.variance

        def component(leaf: tuple[Array, Array]) -> Array:
            s, count = leaf
            covariance = (0.5 * (s + s.T) + pull * eye) / prior.total(count)
            floor = prior.floor + jnp.finfo(s.dtype).eps * jnp.trace(covariance)
            return jnp.linalg.cholesky(covariance + floor * eye, symmetrize_input=False)

        return type(self)(jax.lax.map(component, (scatter, counts)))

    def variance(self) -> Float[Array, "#k d"]:
        return (self.cholesky**2).sum(axis=2)

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return jax.lax.map(lambda factor: (matmul(a, factor) ** 2).sum(axis=1), self.cholesky)

    def dense(self) -> Float[Array, "#k d d"]:
        return matmul(self.cholesky, self.cholesky.swapaxes(1, 2))

    def marginal(self, features: Int[Array, " a"]) -> "Full":
        # Rows of L: their product is the sub-matrix, and the R of a QR its Cholesky factor, without squaring.
        rows = self.cholesky[:, features]
        return type(self)(_lower(rows))

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Full"]:
        covariance = self.dense()
        within = covariance[:, features[:, None], features[None]]
        across = covariance[:, given[:, None], features[None]]
        factor = jnp.broadcast_to(self.marginal(given).cholesky, (deviation.shape[0], given.shape[0], given.shape[0]))
        gain = jnp.broadcast_to(across, (deviation.shape[0], *across.shape[1:]))
        gain = jax.vmap(lambda f, c: cho_solve((f, True), c))(factor, gain)  # Σ_bb⁻¹ Σ_ba
        shift = matmul(deviation[:, None], gain)[:, 0]
        left = within - matmul(across.swapaxes(1, 2), gain[: across.shape[0]])
        return shift, type(self).from_dense(0.5 * (left + left.swapaxes(1, 2)))


def _lower(rows: Float[Array, "k a d"]) -> Float[Array, "k a a"]:
    """The lower-triangular factor with positive diagonal of rows rowsᵀ."""
    upper = jnp.linalg.qr(rows.swapaxes(1, 2), mode="r")
    sign = jnp.where(jnp.diagonal(upper, axis1=1, axis2=2) < 0, -1, 1).astype(rows.dtype)
    return (upper * sign[:, :, None]).swapaxes(1, 2)

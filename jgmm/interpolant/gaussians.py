"""Optimal transport between two Gaussians, and between all components of two mixtures."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.interpolant.ends import check_same_space
from jgmm.mixture import GMM
from jgmm.numerics.linalg import matmul


def bures(factor0: Float[Array, "d d"], factor1: Float[Array, "d d"]) -> Float[Array, ""]:
    """tr(Σ0 + Σ1 − 2 (Σ0^½ Σ1 Σ0^½)^½) of Σ0 = A Aᵀ and Σ1 = B Bᵀ.

    Computed as min ‖A − B Q‖² over rotations Q, which does not subtract large numbers: Q = V Uᵀ for AᵀB = U S Vᵀ
    (Bhatia, Jain and Lim, On the Bures-Wasserstein distance between positive definite matrices, 2019).

    >>> eye = jax.numpy.eye(2)
    >>> float(ip.bures(eye, 2 * eye))
    2.0
    """
    u, _, vt = jnp.linalg.svd(matmul(factor0.T, factor1))
    return ((factor0 - matmul(factor1, matmul(u, vt).T)) ** 2).sum()


def of_every(gmm: GMM, leaf: Array) -> Array:
    """A leaf that leads with K or, shared, with 1, for all K components."""
    return jnp.broadcast_to(leaf, (gmm.k, *leaf.shape[1:]))


def squared_wasserstein(source: GMM, target: GMM) -> Float[Array, "i j"]:
    """W2² of every component of one mixture to every one of the other: ‖m_i − m_j‖² + `bures`(Σ_i, Σ_j).

    Gelbrich, On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces, 1990.
    Raises:
        InputError: If the mixtures do not have the same dimension.

    >>> ip.squared_wasserstein(source, target).tolist()
    [[9.5, 9.5]]
    """
    check_same_space(source, target)
    return _squared_wasserstein(source, target)


@jax.jit
def _squared_wasserstein(source: GMM, target: GMM) -> Float[Array, "i j"]:
    if source.covariance.axis_aligned and target.covariance.axis_aligned:
        deviations = [jnp.sqrt(of_every(gmm, gmm.covariance.variance())) for gmm in (source, target)]

        def row(leaf: tuple[Array, Array]) -> Array:
            mean, deviation = leaf
            return ((target.means - mean[None]) ** 2 + (deviations[1] - deviation[None]) ** 2).sum(axis=1)

        return jax.lax.map(row, (source.means, deviations[0]))
    factors = of_every(target, target.covariance.factor())

    def component(leaf: tuple[Array, Array]) -> Array:
        mean, factor = leaf
        distances = ((target.means - mean[None]) ** 2).sum(axis=1)
        return distances + jax.lax.map(lambda other: bures(factor, other), factors)

    return jax.lax.map(component, (source.means, of_every(source, source.covariance.factor())))

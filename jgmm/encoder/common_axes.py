"""Axes that the covariances of many clusters have in common, learned by maximum likelihood.

A mixture of Gaussians with diagonal covariances on axes q_a explains clusters of covariances C_k best where

    ½ Σ_k w_k Σ_a log(q_a C_k q_aᵀ)

is least over rotations: common principal components (Flury, Common principal components in k groups, Journal of the
American Statistical Association 79, 1984), or semi-tied covariances (Gales, IEEE Transactions on Speech and Audio
Processing 7, 1999).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgmm.errors import check
from jgmm.numerics.linalg import matmul

STEPS = 120
# The rows of its own that a cluster needs to be believed as much as what all clusters have in common.
STRENGTH = 50
# Factors of the step after one that has lowered the sum, and after one that has not.
LONGER, SHORTER = 1.3, 0.4


def learned_turns(
    codes: Float[np.ndarray, "n d"], clusters: Int[np.ndarray, " n"], size: int
) -> Float[np.ndarray, "g b b"]:
    """The rotations of each `size` codes that follow each other, such as those of a block of an image, to the axes that
    their covariances in all clusters have in common. Raises InputError where these do not make up all codes."""
    check(codes.shape[1] % size == 0, f"groups of {size} do not make up {codes.shape[1]} codes.")
    order = np.argsort(clusters, kind="stable")
    ends = np.cumsum(np.bincount(clusters))
    found = []
    for first in range(0, codes.shape[1], size):
        rows = np.split(codes[:, first : first + size][order], ends[:-1])
        counts = np.array([len(part) for part in rows if len(part)], codes.dtype)
        scatter = np.stack([(y := part - part.mean(axis=0)).T @ y for part in rows if len(part)])
        common = STRENGTH * scatter.sum(axis=0) / counts.sum()
        covariances = (scatter + common[None]) / (counts + STRENGTH)[:, None, None]
        found.append(np.asarray(common_axes(jnp.asarray(covariances), jnp.asarray(counts / counts.sum()))))
    return np.stack(found)


@jax.jit
def common_axes(covariances: Float[Array, "k d d"], weights: Float[Array, " k"]) -> Float[Array, "d d"]:
    """The rotation, found from the axes as they are by descent along the gradient on rotations (Wen and Yin, A feasible
    method for optimization with orthogonality constraints, Mathematical Programming 142, 2013).

    >>> import jax.numpy as jnp
    >>> from jgmm.encoder.common_axes import common_axes
    >>> covariances = jnp.array([[[2.0, 1.0], [1.0, 1.0]]])
    >>> q = common_axes(covariances, jnp.ones(1))
    >>> print(abs(q @ covariances[0] @ q.T).round(2))
    [[2.62 0.  ]
     [0.   0.38]]
    """
    eye = jnp.eye(covariances.shape[1], dtype=covariances.dtype)

    def sum_and_gradient(q: Array) -> tuple[Array, Array]:
        product = matmul(q[None], covariances)  # (K, D, D)
        variances = (product * q[None]).sum(axis=2)
        gradient = ((weights[:, None] / variances)[:, :, None] * product).sum(axis=0)
        return 0.5 * (weights[:, None] * jnp.log(variances)).sum(), gradient

    def step(_: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        q, least, gradient, length = state
        skew = matmul(gradient, q.T)
        skew = 0.5 * length * (skew - skew.T)
        new = matmul(jnp.linalg.solve(eye + skew, eye - skew), q)
        value, slope = sum_and_gradient(new)
        better = value < least
        length = length * jnp.where(better, LONGER, SHORTER)
        return jnp.where(better, new, q), jnp.minimum(value, least), jnp.where(better, slope, gradient), length

    return jax.lax.fori_loop(0, STEPS, step, (eye, *sum_and_gradient(eye), jnp.ones((), eye.dtype)))[0]

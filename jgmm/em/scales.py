"""Gaussians at several scales: p(x) = Σ_k Σ_s w_ks N(x | μ_k, σ_s Σ_k).

Much of what differs from one image, or place in it, to another is how much there is of the same (Wainwright and
Simoncelli, Scale mixtures of Gaussians and the statistics of natural images, NIPS 1999). K shapes at S scales are K S
components that EM fits at about the cost of K, since distances are those of the shapes, divided by σ_s. With
responsibilities r_nks and a_nk = Σ_s r_nks / σ_s the M-step is that of K components,

    μ_k = Σ_n a_nk x_n / Σ_n a_nk,    Σ_k = Σ_n a_nk (x_n − μ_k)(x_n − μ_k)ᵀ / Σ_ns r_nks

The scales are a grid that stays: what they say of a shape is in its weights.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.covariance.base import Covariance
from jgmm.covariance.prior import Floor, Prior
from jgmm.covariance.tied import Tied
from jgmm.em.loop import climb, says_something
from jgmm.em.rows import Rows
from jgmm.em.screening import negligible
from jgmm.em.statistics import Statistics, collect
from jgmm.em.steps import chunk_size, log_prior, m_step
from jgmm.errors import check
from jgmm.mixture import GMM, log_constant
from jgmm.numerics.pytree import Additive, pytree
from jgmm.numerics.summation import CompensatedSum

# The ratio of the largest scale, of variances, to the smallest.
RANGE = 5.0
# What keeps the weight of a scale that no row is of away from zero: so many rows.
LEAST = 1e-3


@pytree
class ScaledGMM:
    """K Gaussians at S scales.

    Attributes:
        shapes: The Gaussians, and how likely each is at any scale.
        log_weights: log p(s | k).
        scales: σ_s, which multiply variances.

    >>> import jgmm
    >>> from jgmm.em.scales import ScaledGMM
    >>> gmm = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 2.0], "spherical")
    >>> ScaledGMM.of(gmm, 3).mixture()
    GMM(k=6, d=1, covariance='spherical', dtype=float32)
    """

    shapes: GMM
    log_weights: Float[Array, "k s"]
    scales: Float[Array, " s"]

    @classmethod
    def of(cls, gmm: GMM, n: int) -> "ScaledGMM":
        """Every Gaussian of a mixture at n scales about its own, all as likely."""
        scales = jnp.geomspace(RANGE**-0.5, RANGE**0.5, n, dtype=gmm.dtype) if n > 1 else jnp.ones(1, gmm.dtype)
        return cls(gmm, jnp.full((gmm.k, n), -np.log(n), gmm.dtype), scales)

    def log_joint(self) -> Callable[[Float[Array, "n d"]], Float[Array, "n k s"]]:
        """x -> log p(x, k, s), nats."""
        distances = self.shapes.covariance.squared_mahalanobis(self.shapes.means)
        volume = 0.5 * self.shapes.d * jnp.log(self.scales)
        constant = log_constant(self.shapes)[:, None] + self.log_weights - volume[None]
        return lambda x: constant[None] - 0.5 * distances(x)[:, :, None] / self.scales[None, None]

    def mixture(self) -> GMM:
        """The mixture of all K S components, the scales of a Gaussian side by side."""
        n, shapes = len(self.scales), self.shapes
        factors = jnp.broadcast_to(jnp.sqrt(self.scales)[:, None], (n, shapes.d))
        scaled = jax.vmap(shapes.covariance.scaled, out_axes=1)(factors)
        covariance = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), scaled)
        weights = shapes.log_weights[:, None] + self.log_weights
        return GMM(weights.ravel(), jnp.repeat(shapes.means, n, axis=0), covariance)


@pytree
class _Sums(Additive):
    """What the M-step needs: statistics in which rows count for a_nk, and the rows of every shape and scale."""

    statistics: Statistics
    counts: Float[Array, "k s"]


@partial(jax.jit, static_argnames="with_prior")
def scaled_step(
    mixture: ScaledGMM, rows: Rows, prior: Prior, floor: Floor, *, with_prior: bool
) -> tuple[ScaledGMM, CompensatedSum, Float[Array, ""]]:
    """One iteration of EM, Σ_n log p(x_n), and log p(μ, Σ) of the shapes (`Prior`), before it."""
    joint, shapes = mixture.log_joint(), mixture.shapes

    def chunk(x: Array, weight: Array) -> _Sums:
        log_p = joint(x)
        log_likelihood = jax.nn.logsumexp(log_p, axis=(1, 2))
        r = jnp.exp(log_p - log_likelihood[:, None, None])
        kept = (r.sum(axis=2, keepdims=True) > negligible(shapes.k, r.dtype)) & (weight > 0)[:, None, None]
        r = jnp.where(kept, r, 0) * weight[:, None, None]
        a = (r / mixture.scales[None, None]).sum(axis=2)
        seen = jnp.where(weight > 0, weight * log_likelihood, 0)
        return _Sums(collect(shapes, x, a, seen, jnp.zeros((), x.dtype)), r.sum(axis=0))

    sums = rows.sum(chunk, chunk_size(mixture.log_weights.size))
    of_shapes, of_scales = sums.counts.sum(axis=1), sums.counts + LEAST * rows.unit
    new = ScaledGMM(
        m_step(shapes, sums.statistics, prior, floor, of_shapes),
        jnp.log(of_scales) - jnp.log(of_scales.sum(axis=1, keepdims=True)),
        mixture.scales,
    )
    penalty = log_prior(shapes, prior) if with_prior else jnp.zeros((), rows.dtype)
    return new, sums.statistics.log_likelihood, penalty


def check_scalable(covariance: Covariance) -> None:
    """Raise InputError for a family whose members do not stay in it at another scale, or that components share."""
    own = not isinstance(covariance, Tied) and covariance.scales != "none"
    check(own, f"scales are those of covariances of their own, not of {covariance.name!r} ones: choose another family.")


def with_scales(
    gmm: GMM,
    rows: Rows,
    n: int,
    prior: Prior,
    floor: Floor,
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
    callback: Callable[[int, float], None] | None = None,
) -> tuple[GMM, list[float], bool]:
    """The Gaussians of a mixture at n scales each, by EM from these.

    Args:
        prior: On the covariances of the shapes, at scale 1.
        tol: EM stops when the objective changes by less than this, nats a row.
        callback: Called with the number of the iteration and the mean log-likelihood before it.
    Returns:
        The mixture of all components, the scales of a Gaussian side by side; the objective before each iteration, mean
        nats a row; and whether the last change was below `tol`.
    Raises:
        InputError: For families without scales, and when the likelihood is not finite.
    """
    check_scalable(gmm.covariance)
    with_prior = says_something(prior)
    found, history, converged = climb(
        lambda mixture: scaled_step(mixture, rows, prior, floor, with_prior=with_prior),
        ScaledGMM.of(gmm, n),
        float(rows.total),
        rows.dtype,
        max_iter=max_iter,
        tol=tol,
        callback=callback,
    )
    return found.mixture(), history, converged

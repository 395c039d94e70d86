"""A mixture as a vector of real numbers, every one of them allowed: for gradients and for networks.

    [logits of the weights (K), means (K D), raw covariances (K m, or m where all components share one)]

Covariances as `Covariance.unconstrained` writes them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.covariance.base import Covariance
from jgmm.mixture import GMM, covariance_name
from jgmm.tables import COVARIANCES

# No parameter counts as larger than this: what a network says of contexts far from all data stays finite.
LARGEST = 1e12


def flatten(gmm: GMM, epsilon: float = 0.0) -> Float[Array, " p"]:
    """The vector of a mixture. `epsilon` is what `unflatten` adds to every scale."""
    return jnp.concatenate([gmm.log_weights, gmm.means.ravel(), gmm.covariance.unconstrained(epsilon).ravel()])


def unflatten(
    k: int, d: int, covariance_type: str, epsilon: float = 0.0
) -> tuple[int, Callable[[Float[Array, " p"]], GMM]]:
    """How many numbers make a mixture, and vector -> mixture.

    covariance_type is a name in `jgmm.tables.COVARIANCES`. Raises InputError for an unknown one.
    """
    structure: Covariance = jax.eval_shape(lambda: COVARIANCES[covariance_type](k, d))
    rows, m = jax.eval_shape(lambda c: c.unconstrained(epsilon), structure).shape

    def make(vector: Float[Array, " p"]) -> GMM:
        vector = jnp.clip(vector, -LARGEST, LARGEST)
        logits, means, raw = jnp.split(vector, [k, k + k * d])
        covariance = structure.constrain(raw.reshape(rows, m), epsilon)
        return GMM(jax.nn.log_softmax(logits), means.reshape(k, d), covariance)

    return k + k * d + rows * m, make


def n_parameters(gmm: GMM) -> int:
    """How many numbers are free in a mixture: K − 1 weights, K D means, and the covariances'. For BIC and AIC."""
    size, _ = unflatten(gmm.k, gmm.d, covariance_name(gmm))
    return size - 1

"""Random mixtures for experiments."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.full import Full
from jgmm.errors import check_count, check_number
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_key
from jgmm.numerics.linalg import matmul


def random_means(key: PRNGKeyArray, n: int, d: int, scale: float) -> Float[Array, "n d"]:
    """n draws of N(0, scale² I).

    >>> ip.random_means(key, 4, 2, 3.0).shape
    (4, 2)
    """
    return scale * jax.random.normal(key, (n, d))


def random_covariances(key: PRNGKeyArray, n: int, d: int) -> Float[Array, "n d d"]:
    """n matrices AᵀA / d + I / 2, the entries of A standard normal: eigenvalues of 1/2 and more, 3/2 on average.

    >>> ip.random_covariances(key, 4, 2).shape
    (4, 2, 2)
    """
    a = jax.random.normal(key, (n, d, d)) / jnp.sqrt(d)
    return matmul(a.swapaxes(1, 2), a) + 0.5 * jnp.eye(d)[None]


def random_mixture(key: PRNGKeyArray, k: int, d: int, scale: float = 3.0) -> GMM:
    """A mixture of k components with such means and covariances, and weights from Dirichlet(5, ..., 5).

    >>> ip.random_mixture(key, 3, 2)
    GMM(k=3, d=2, covariance='full', dtype=float32)
    """
    k, d, scale = check_count("k", k), check_count("d", d), check_number("scale", scale)
    for_weights, for_means, for_covariances = jax.random.split(as_key(key), 3)
    log_weights = jnp.log(jax.random.dirichlet(for_weights, jnp.full(k, 5.0)))
    covariance = Full.from_dense(random_covariances(for_covariances, k, d))
    return GMM(log_weights, random_means(for_means, k, d, scale), covariance)

"""A mixture seen as a distribution, of any batch shape.

A batch is a `GMM` whose leaves lead with further axes: what `jgmm.ConditionalGMM` makes of contexts, or `jax.vmap` of
anything. Shapes follow torch.distributions and zuko: with batch shape B and D features,

    sample(key, gmm, S)      S + B + (D,)
    log_prob(gmm, x)         x of shape (..., D), its leading axes broadcast against B
    mean, variance, std      B + (D,);   covariance: B + (D, D)

Draws are μ_k + A_k ε with k from the weights: differentiable with respect to means and covariances, within the
component that was drawn. With respect to the weights their gradient is zero, although that of an expectation is not:
use log_prob (the score function) there. `log_prob` is differentiable with respect to everything.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm import mixture
from jgmm.checks import check
from jgmm.mixture import GMM, LOG_2PI
from jgmm.products import matmul

T = TypeVar("T")
# Halvings of the interval that holds a quantile: more than the digits of a float32, or of a float64.
HALVINGS = 64


def batch_shape(gmm: GMM) -> tuple[int, ...]:
    """The leading axes of the leaves; () for a single mixture."""
    return gmm.means.shape[:-2]


def weights(gmm: GMM) -> Float[Array, "*b k"]:
    """w_k."""
    return jnp.exp(gmm.log_weights)


@jax.jit
def component_log_prob(gmm: GMM, x: Float[Array, "*n d"]) -> Float[Array, "*m k"]:
    """log N(x | μ_k, Σ_k) of every component, nats; the last axis is that of components.

    Raises InputError for x of another width, or leading axes that do not broadcast with the batch shape.
    """
    batch = batch_shape(gmm)
    shape = _broadcast(gmm, x)
    if batch == ():  # many points in one mixture: matrix products
        rows = x.reshape(-1, gmm.d)
        distances, log_det = gmm.covariance.mahalanobis(gmm.means)(rows), gmm.covariance.log_det()
        return (-0.5 * (gmm.d * LOG_2PI + log_det[None] + distances)).reshape(*shape, gmm.k)

    def single(gmm: GMM, x: Array) -> Array:
        y = gmm.covariance.whiten(x[None] - gmm.means)
        return -0.5 * (gmm.d * LOG_2PI + gmm.covariance.log_det() + (y * y).sum(axis=1))

    inner = shape[len(shape) - len(batch) :]
    rows = jnp.broadcast_to(x, (*shape, gmm.d)).reshape(-1, *inner, gmm.d)
    mapped: Callable[..., Array] = over_batch(lambda g, r: jax.vmap(single, (None, 0))(g, r), len(inner))
    found = mapped(_expand(gmm, inner), jnp.moveaxis(rows, 0, -2))
    return jnp.moveaxis(found, -2, 0).reshape(*shape, gmm.k)


@jax.jit
def log_prob(gmm: GMM, x: Float[Array, "*n d"]) -> Float[Array, "*m"]:
    """log Σ_k w_k N(x | μ_k, Σ_k), nats. Raises InputError as `component_log_prob`."""
    return jax.nn.logsumexp(_log_joint(gmm, x), axis=-1)


@jax.jit
def responsibilities(gmm: GMM, x: Float[Array, "*n d"]) -> Float[Array, "*m k"]:
    """p(k | x): soft assignments, of which `argmax` is the hard one. Raises InputError as `component_log_prob`."""
    return jax.nn.softmax(_log_joint(gmm, x), axis=-1)


def sample(key: PRNGKeyArray, gmm: GMM, sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """Independent draws of shape sample_shape + batch shape + (D,).

    Raises InputError for a negative length.
    """
    check(isinstance(sample_shape, tuple), f"sample_shape must be a tuple, such as (1000,), got {sample_shape!r}.")
    check(all(s >= 0 for s in sample_shape), f"sample_shape must not be negative, got {sample_shape}.")
    return _sample(key, gmm, tuple(sample_shape))


@partial(jax.jit, static_argnames="shape")
def _sample(key: PRNGKeyArray, gmm: GMM, shape: tuple[int, ...]) -> Array:
    batch = batch_shape(gmm)
    n = 1
    for s in shape:
        n *= s
    keys = jax.random.split(key, batch) if batch else key
    draws = over_batch(lambda key, g: mixture.sample(key, g, n)[0], len(batch))(keys, gmm)
    return jnp.moveaxis(draws, -2, 0).reshape(*shape, *batch, gmm.d)


@jax.jit
def mean(gmm: GMM) -> Float[Array, "*b d"]:
    """E[x] = Σ_k w_k μ_k."""
    return over_batch(mixture.mean, len(batch_shape(gmm)))(gmm)


@jax.jit
def variance(gmm: GMM) -> Float[Array, "*b d"]:
    """diag Cov[x], by the law of total variance."""
    return over_batch(mixture.variance, len(batch_shape(gmm)))(gmm)


def std(gmm: GMM) -> Float[Array, "*b d"]:
    """The square root of `variance`."""
    return jnp.sqrt(variance(gmm))


@jax.jit
def covariance(gmm: GMM) -> Float[Array, "*b d d"]:
    """Cov[x] = Σ_k w_k [Σ_k + (μ_k − E[x])(μ_k − E[x])ᵀ]."""

    def single(gmm: GMM) -> Array:
        w, off = jnp.exp(gmm.log_weights), gmm.means - mixture.mean(gmm)[None]
        within = jnp.broadcast_to(gmm.covariance.dense(), (gmm.k, gmm.d, gmm.d))
        return (w[:, None, None] * within).sum(axis=0) + matmul((w[:, None] * off).T, off)

    return over_batch(single, len(batch_shape(gmm)))(gmm)


@jax.jit
def cdf(gmm: GMM, x: Float[Array, "*n d"]) -> Float[Array, "*m d"]:
    """P(X_d ≤ x_d) of every feature by itself. Raises InputError as `component_log_prob`."""
    _broadcast(gmm, x)
    return _cdf(gmm, _scales(gmm), x)


@jax.jit
def quantile(gmm: GMM, q: Float[Array, "*q"] | float) -> Float[Array, "*qbd"]:
    """The q-quantile of every feature by itself, of shape q.shape + batch shape + (D,), by bisection.

    q is from 0 to 1, not including them; outside it gives NaN. Not differentiable.
    """
    scales = _scales(gmm)
    q = jnp.asarray(q, gmm.means.dtype)
    lead = (None,) * q.ndim
    q = q.reshape(*q.shape, *[1] * (gmm.means.ndim - 1))
    # The quantile of a mixture lies between the least and the greatest of those of its components.
    ends = gmm.means[lead] + jax.scipy.special.ndtri(q)[..., None] * scales[lead]
    start = ends.min(axis=-2), ends.max(axis=-2)

    def halve(_: Array, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = low + (high - low) / 2
        below = _cdf(gmm, scales, middle) < q
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, start)
    return low + (high - low) / 2


def over_batch(f: Callable[..., T], axes: int) -> Callable[..., T]:
    """f, mapped over so many leading axes."""
    for _ in range(axes):
        f = jax.vmap(f)
    return f


def _log_joint(gmm: GMM, x: Array) -> Array:
    found = component_log_prob(gmm, x)
    return found + gmm.log_weights[(None,) * (found.ndim - gmm.log_weights.ndim)]


def _scales(gmm: GMM) -> Float[Array, "*b k d"]:
    """The standard deviation of every feature in every component."""
    scales = jnp.sqrt(over_batch(lambda g: g.covariance.variance(), len(batch_shape(gmm)))(gmm))
    return jnp.broadcast_to(scales, gmm.means.shape)


def _cdf(gmm: GMM, scales: Array, x: Array) -> Array:
    x = x.reshape(*[1] * (gmm.means.ndim - 1 - x.ndim), *x.shape)[..., None, :]
    lead = (None,) * (x.ndim - gmm.means.ndim)
    below = jax.scipy.special.ndtr((x - gmm.means[lead]) / scales[lead])
    return (jnp.exp(gmm.log_weights)[..., None][lead] * below).sum(axis=-2)


def _broadcast(gmm: GMM, x: Array) -> tuple[int, ...]:
    check(x.ndim >= 1 and x.shape[-1] == gmm.d, f"expected points of shape (..., {gmm.d}), got {x.shape}.")
    try:
        return jnp.broadcast_shapes(x.shape[:-1], batch_shape(gmm))
    except ValueError:
        check(False, f"points of shape {x.shape} do not broadcast with mixtures of batch shape {batch_shape(gmm)}.")
        raise


def _expand(gmm: GMM, batch: tuple[int, ...]) -> GMM:
    """The leaves broadcast to a batch shape of as many axes."""
    lead = len(batch)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch, *leaf.shape[lead:])), gmm)

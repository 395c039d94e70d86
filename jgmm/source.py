"""What a fit produces: a mixture in codes, the rotation back to pixels, and the normalisation baked in.

    x0 = (decode(z) − mean) / std,        z ~ Σ_k w_k N(μ_k, Σ_k)

`Source` is a pytree: pass it to jit, vmap and grad as data.
"""

from dataclasses import field, replace
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm import mixture
from jgmm.checks import check
from jgmm.mixture import GMM
from jgmm.pca import Rotation, encode_with_residual
from jgmm.products import matmul
from jgmm.tables import NORMALISATIONS
from jgmm.types import pytree


@pytree
class Source:
    """A mixture of normalised images.

    Fields:
        gmm: the mixture, in codes.
        rotation: `jgmm.pca.PCA`, or `jgmm.pca.Identity`.
        mean, std: the normalisation of pixels, of a shape that broadcasts with `shape`.
        shape: of one image, (H, W, C), or (D,) for plain vectors.
    """

    gmm: GMM
    rotation: Rotation
    mean: Array
    std: Array
    shape: tuple[int, ...] = field(metadata={"static": True})


def unnormalised(gmm: GMM, rotation: Rotation, shape: tuple[int, ...]) -> Source:
    """A source whose x0 are pixels; `normalize` gives it a mean and a deviation."""
    ones = jnp.ones((1,) * len(shape), gmm.means.dtype)
    return Source(gmm, rotation, jnp.zeros_like(ones), ones, shape)


@overload
def sample(
    key: PRNGKeyArray, params: Source, n: int, *, component: int | Array | None = None
) -> Float[Array, "n ..."]: ...
@overload
def sample(
    key: PRNGKeyArray,
    params: Source,
    n: int,
    *,
    component: int | Array | None = None,
    return_components: Literal[True],
) -> tuple[Float[Array, "n ..."], Int[Array, " n"]]: ...
def sample(
    key: PRNGKeyArray,
    params: Source,
    n: int,
    *,
    component: int | Array | None = None,
    return_components: bool = False,
) -> Float[Array, "n ..."] | tuple[Float[Array, "n ..."], Int[Array, " n"]]:
    """n normalised images x0 drawn from the source, [n, *params.shape], and with `return_components` their components.

    Pure; n is static under jit, the rest may be traced. The same key gives the same draw on any number of devices.
    Memory is O(n D) beside the parameters: no array of n matrices exists, whatever the covariance family.
    Raises InputError if n < 0 or `component` is not one of the mixture's.
    """
    key_code, key_residual = jax.random.split(key)
    z, k = mixture.sample(key_code, params.gmm, n, component=component)
    x0 = _decode(key_residual, params, z)
    return (x0, k) if return_components else x0


@jax.jit
def _decode(key: PRNGKeyArray, params: Source, z: Float[Array, "n d"]) -> Float[Array, "n ..."]:
    residual = jax.random.normal(key, (z.shape[0], params.rotation.n_residual), z.dtype)
    pixels = params.rotation.decode(z, residual).reshape(-1, *params.shape)
    return (pixels - params.mean[None]) / params.std[None]


@jax.jit
def log_prob(params: Source, x0: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """The exact log-density of normalised images, nats an image.

        log p(x0) = log p_gmm(z) + log N(residual | 0, I) + log |∂z/∂pixels| + Σ log std

    Raises InputError for a wrong shape, and for a source that dropped directions without a residual: it has none.
    """
    check(
        params.rotation.has_density,
        "this source was fitted with residual 'none': it lives on a subspace and has no density over images. "
        "Fit with --residual spectrum or isotropic.",
    )
    check(jnp.issubdtype(x0.dtype, jnp.floating), f"expected normalised images, floating point, got {x0.dtype}.")
    check(x0.shape[1:] == params.shape, f"expected images of shape {('n', *params.shape)}, got {x0.shape}.")
    pixels = x0 * params.std[None] + params.mean[None]
    codes, log_residual = encode_with_residual(params.rotation, pixels.reshape(x0.shape[0], -1))
    log_std = jnp.broadcast_to(jnp.log(params.std), params.shape).sum()
    return mixture.log_prob(params.gmm, codes) + log_residual + params.rotation.log_det() + log_std


@jax.jit
def pixel_moments(params: Source) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The exact mean and variance of every pixel before normalisation, by the law of total variance:

    mean = Σ_k w_k m_k,   var = Σ_k w_k [diag(A Σ_k Aᵀ) + (m_k − mean)²] + residual,   m_k = decode(μ_k), A = ∂x/∂z
    """
    gmm, rotation = params.gmm, params.rotation
    weights = jnp.exp(gmm.log_weights)
    m = rotation.decode(gmm.means, jnp.zeros((gmm.k, rotation.n_residual), gmm.means.dtype))
    mean = matmul(weights, m)
    spread = rotation.image_variance(gmm.covariance) + (m - mean[None]) ** 2
    variance = matmul(weights, jnp.broadcast_to(spread, m.shape))
    return mean.reshape(params.shape), variance.reshape(params.shape)


def pool(mean: Array, variance: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and standard deviation of all values along `axes`: the variance is the mean variance plus the variance of
    the means."""
    pooled = variance.mean(axis=axes, keepdims=True) + mean.var(axis=axes, keepdims=True)
    return mean.mean(axis=axes, keepdims=True), jnp.sqrt(pooled)


def normalize(params: Source, kind: str = "channel", *, samples: tuple[PRNGKeyArray, int, int] | None = None) -> Source:
    """The source with its normalisation set so that x0 has mean 0 and standard deviation 1.

    Arguments:
        kind: what shares one mean and deviation, a name in `jgmm.tables.NORMALISATIONS`.
        samples: None for the exact moments of the mixture; (key, n, batch_size) estimates them from n draws.
    """
    axes = NORMALISATIONS[kind](params.shape)
    raw = replace(params, mean=jnp.zeros_like(params.mean), std=jnp.ones_like(params.std))
    if axes is None:
        return raw
    mean, variance = pixel_moments(raw) if samples is None else sampled_moments(raw, *samples)
    mean, std = pool(mean, variance, axes)
    return replace(params, mean=mean, std=std)


def sampled_moments(params: Source, key: PRNGKeyArray, n: int, batch_size: int) -> tuple[Array, Array]:
    """The mean and variance of every pixel over n draws, as the reference script estimates them.

    Raises InputError unless n ≥ 2 and batch_size ≥ 1.
    """
    check(
        n >= 2 and batch_size >= 1,
        f"expected n-stat-samples ≥ 2 and batch-size ≥ 1, got {n} and {batch_size}.",
    )
    total, squares = np.zeros(params.shape), np.zeros(params.shape)
    for i, start in enumerate(range(0, n, batch_size)):
        x = np.asarray(sample(jax.random.fold_in(key, i), params, min(batch_size, n - start)), np.float64)
        total += x.sum(axis=0)
        squares += (x**2).sum(axis=0)
    mean = total / n
    dtype = params.gmm.means.dtype
    return jnp.asarray(mean, dtype), jnp.asarray(squares / n - mean**2, dtype)


def channel_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Every channel (last axis) has its own mean and deviation, pooled over the pixels."""
    return tuple(range(len(shape) - 1))


def pixel_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Every pixel and channel has its own."""
    return ()


def scalar_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One for all."""
    return tuple(range(len(shape)))


def no_axes(shape: tuple[int, ...]) -> None:
    """No normalisation: x0 are pixels."""
    return

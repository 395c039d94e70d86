"""What a fit produces: a mixture in codes, the encoder back to pixels, and the normalization baked in.

    x0 = (decode(z) − mean) / std,        z ~ Σ_k w_k N(μ_k, Σ_k)

`Source` is a pytree: pass it to jit, vmap and grad as data.
"""

from dataclasses import field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.encoder.base import Encoder, decode_means, encode_with_residual
from jgmm.errors import InputError, check, check_count, short
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats, as_key, check_kind
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from jgmm.numerics.typing import ArrayLike
from jgmm.product.mixture import ProductMixture
from jgmm.registry import NORMALIZATIONS

Mixture = GMM | ProductMixture


@pytree
class Source:
    """A mixture of normalized images, or of normalized rows.

    Attributes:
        gmm: The mixture, in codes: a `GMM`, or a `ProductMixture` of blocks of them.
        encoder: Between pixels and codes.
        mean, std: The normalization of pixels, of a shape that broadcasts with `shape`.
        shape: Of one image, (H, W, C), or (D,) for plain vectors.

    >>> import jax, jgmm
    >>> from jgmm.encoder.identity import Identity
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[1.0, 5.0]], [4.0])
    >>> source = jgmm.normalize(jgmm.unnormalized(gmm, Identity(2), (2,)), "scalar")
    >>> source.sample(jax.random.key(0), 3).shape
    (3, 2)
    """

    gmm: Mixture
    encoder: Encoder
    mean: Array
    std: Array
    shape: tuple[int, ...] = field(metadata={"static": True})

    def __repr__(self) -> str:
        encoder = getattr(self.encoder, "name", self.encoder)
        return f"Source({self.gmm!r}, encoder={encoder!r}, shape={self.shape})"

    def to_pixels(self, x0: Float[Array, "..."]) -> Float[Array, "..."]:
        """Pixels of normalized images, whose last axes are those of an image: x0 · std + mean."""
        return x0 * _led_by_ones(self.std, x0.ndim) + _led_by_ones(self.mean, x0.ndim)

    def from_pixels(self, pixels: Float[Array, "..."]) -> Float[Array, "..."]:
        """Normalized images of pixels: (pixels − mean) / std."""
        return (pixels - _led_by_ones(self.mean, pixels.ndim)) / _led_by_ones(self.std, pixels.ndim)

    def sample(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        component: int | Array | None = None,
        return_components: bool = False,
    ) -> Any:
        """n normalized images x0, [n, *shape], and with `return_components` the component of each as well, of a product
        the labels of its blocks.

        Pure; n is static under jit, the rest may be traced. The same key gives the same draw on any number of devices.
        Memory is O(n D) beside the parameters: no array of n matrices exists, whatever the covariance family. Labels of
        a product are drawn a part of the n at a time.

        Raises:
            InputError: If n < 0 or `component` is not one of the mixture's.
        """
        key, n = as_key(key), check_count("n", n, least=0)
        key_code, key_residual = jax.random.split(key)
        z, k = self.gmm.sample(key_code, n, component=component, return_components=True)
        x0 = _decode(key_residual, self, z)
        return (x0, k) if return_components else x0

    def log_prob(self, x0: ArrayLike) -> Float[Array, " n"]:
        """The exact log-density of normalized images, nats an image.

            log p(x0) = log p_gmm(z) + log N(residual | 0, I) + log |∂z/∂pixels| + Σ log std

        Raises:
            InputError: For a wrong shape, and for a source that dropped directions without a residual: it has none.
        """
        check(
            self.encoder.has_density,
            "this source was fitted with residual 'none': it lives on a subspace and has no density over images. "
            "Fit with residual 'spectrum' or 'isotropic'.",
        )
        whole = np.issubdtype(getattr(x0, "dtype", float), np.integer)
        check(not whole, f"x0 must be normalized images, floating point, got {getattr(x0, 'dtype', '')}.")
        x0 = as_floats("x0", x0)
        check(x0.shape[1:] == self.shape, f"expected images of shape {('n', *self.shape)}, got {x0.shape}.")
        return _log_prob(self, x0)


def sample(
    key: PRNGKeyArray, model: Any, n: int, *, component: int | Array | None = None, return_components: bool = False
) -> Any:
    """n draws from a `Source` (normalized images [n, *shape]), a `GMM` or a `ProductMixture` ([n, D]); see their own
    `sample`.

    >>> import jax, jgmm
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[1.0, 5.0]], [4.0])
    >>> jgmm.sample(jax.random.key(0), gmm, 3).shape
    (3, 2)
    """
    _check_model(model)
    return model.sample(key, n, component=component, return_components=return_components)


def log_prob(model: Any, x: ArrayLike) -> Array:
    """The log-density of x under a `Source`, a `GMM` or a `ProductMixture`, nats; see their own `log_prob`.

    >>> import jgmm
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0]], [1.0], "spherical")
    >>> print(jgmm.log_prob(gmm, [[0.0]]).round(3))
    [-0.919]
    """
    _check_model(model)
    return model.log_prob(x)


def _check_model(model: Any) -> None:
    kinds = (Source, GMM, ProductMixture)
    check_kind("model", model, kinds, "a jgmm.Source, a jgmm.GMM or a jgmm.ProductMixture, as jgmm.load returns them")


def given_component(
    mixture: Mixture, component: Int[Array, "n ..."], noise: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """The means of the components given, of a product of the labels of its blocks, and deviations from them: noise
    N(0, I) becomes N(0, Σ)."""
    if isinstance(mixture, ProductMixture):
        return mixture.given_labels(component, noise)
    return mixture.means[component], mixture.covariance.color(component, noise)


def unnormalized(gmm: Mixture, encoder: Encoder, shape: tuple[int, ...]) -> Source:
    """A source whose x0 are pixels; `normalize` gives it a mean and a deviation.

    >>> import jgmm
    >>> from jgmm.encoder.identity import Identity
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[1.0, 5.0]], [4.0])
    >>> jgmm.unnormalized(gmm, Identity(2), (2,))
    Source(GMM(k=1, d=2, covariance='spherical', dtype=float32), encoder='identity', shape=(2,))
    """
    check_kind("gmm", gmm, (GMM, ProductMixture), "a jgmm.GMM or a jgmm.ProductMixture")
    check_kind("encoder", encoder, Encoder, "an encoder, such as jgmm.encoder.identity.Identity(d)")
    check_kind("shape", shape, tuple, "a tuple, such as (32, 32, 3)")
    shape = tuple(check_count("shape", length) for length in shape)
    ones = jnp.ones((1,) * len(shape), gmm.dtype)
    return Source(gmm, encoder, jnp.zeros_like(ones), ones, shape)


@jax.jit
def _decode(key: PRNGKeyArray, source: Source, z: Float[Array, "n d"]) -> Float[Array, "n ..."]:
    residual = jax.random.normal(key, (z.shape[0], source.encoder.n_residual), z.dtype)
    return source.from_pixels(source.encoder.decode(z, residual).reshape(-1, *source.shape))


@jax.jit
def _log_prob(source: Source, x0: Float[Array, "n ..."]) -> Float[Array, " n"]:
    codes, log_residual = encode_with_residual(source.encoder, source.to_pixels(x0).reshape(x0.shape[0], -1))
    log_std = jnp.broadcast_to(jnp.log(source.std), source.shape).sum()
    return source.gmm.log_prob(codes) + log_residual + source.encoder.log_det() + log_std


@jax.jit
def pixel_moments(source: Source) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The exact mean and variance of every pixel before normalization, by the law of total variance:

    mean = Σ_k w_k m_k,   var = Σ_k w_k [diag(A Σ_k Aᵀ) + (m_k − mean)²] + residual,   m_k = decode(μ_k), A = ∂x/∂z
    """
    gmm, encoder = source.gmm, source.encoder
    if isinstance(gmm, ProductMixture):
        residual = jnp.zeros((1, encoder.n_residual), gmm.dtype)
        codes, rest = jnp.split(encoder.jacobian(jnp.arange(prod(source.shape))), [gmm.d], axis=1)
        variance = (matmul(codes, gmm.covariance_matrix()) * codes).sum(axis=1) + (rest**2).sum(axis=1)
        return encoder.decode(gmm.mean()[None], residual).reshape(source.shape), variance.reshape(source.shape)
    m = decode_means(encoder, gmm)
    mean = matmul(gmm.weights, m)
    spread = encoder.image_variance(gmm.covariance) + (m - mean[None]) ** 2
    variance = matmul(gmm.weights, jnp.broadcast_to(spread, m.shape))
    return mean.reshape(source.shape), variance.reshape(source.shape)


def pool(mean: Array, variance: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and standard deviation of all values along `axes`: the variance is the mean variance plus the variance of
    the means."""
    pooled = variance.mean(axis=axes, keepdims=True) + mean.var(axis=axes, keepdims=True)
    return mean.mean(axis=axes, keepdims=True), jnp.sqrt(pooled)


def normalize(source: Source, kind: Any = "channel", *, samples: tuple[PRNGKeyArray, int, int] | None = None) -> Source:
    """The source with its normalization set so that x0 has mean 0 and standard deviation 1.

    Args:
        source: Any source; its own normalization is not used.
        kind: What shares one mean and deviation, a name in `jgmm.registry.NORMALIZATIONS`, or a function of the shape.
        samples: None for the exact moments of the mixture; (key, n, batch_size) estimates them from n draws.
    Raises:
        InputError: For an unknown kind, n < 2 and batch_size < 1.

    >>> import jgmm
    >>> from jgmm.encoder.identity import Identity
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[1.0, 5.0]], [4.0])
    >>> jgmm.normalize(jgmm.unnormalized(gmm, Identity(2), (2,)), "pixel").mean.tolist()
    [1.0, 5.0]
    """
    check_kind("source", source, Source, "a jgmm.Source")
    axes = NORMALIZATIONS.resolve(kind)(source.shape)
    raw = replace(source, mean=jnp.zeros_like(source.mean), std=jnp.ones_like(source.std))
    if axes is None:
        return raw
    mean, variance = pixel_moments(raw) if samples is None else sampled_moments(raw, *_samples(samples))
    mean, std = pool(mean, variance, axes)
    return replace(source, mean=mean, std=std)


def _samples(samples: Any) -> tuple[Any, int, int]:
    fits = isinstance(samples, tuple) and len(samples) == 3
    check(fits, f"samples must be (key, n, batch_size), got {short(samples)}.")
    key, n, batch_size = samples
    return as_key(key, "the key of samples"), check_count("n of samples", n, 2), check_count("batch_size", batch_size)


def sampled_moments(source: Source, key: PRNGKeyArray, n: int, batch_size: int) -> tuple[Array, Array]:
    """The mean and variance of every pixel over n draws, as the reference script estimates them.

    Raises:
        InputError: Unless n ≥ 2 and batch_size ≥ 1.
    """
    if n < 2 or batch_size < 1:
        raise InputError(f"expected samples=(key, n, batch_size) with n ≥ 2 and batch_size ≥ 1, got {n}, {batch_size}.")
    total, squares = np.zeros(source.shape), np.zeros(source.shape)
    for i, start in enumerate(range(0, n, batch_size)):
        x = np.asarray(source.sample(jax.random.fold_in(key, i), min(batch_size, n - start)), np.float64)
        total += x.sum(axis=0)
        squares += (x**2).sum(axis=0)
    mean = total / n
    dtype = source.gmm.dtype
    return jnp.asarray(mean, dtype), jnp.asarray(squares / n - mean**2, dtype)


def _led_by_ones(statistic: Array, ndim: int) -> Array:
    return statistic.reshape(*[1] * (ndim - statistic.ndim), *statistic.shape)


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
    """No normalization: x0 are pixels."""
    return

"""What a source says of images, one by one: log-density, responsibilities, bits per dimension."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import DTypeLike

from jgmm.data.images import STEP, to_features
from jgmm.data.streams import Examples
from jgmm.errors import check
from jgmm.mixture import GMM
from jgmm.numerics.chunking import map_chunks
from jgmm.source import Mixture, Source, normalize

ROWS = 2048


class Scores(NamedTuple):
    """Of N images in pixel units.

    Attributes:
        log_prob: The log-density, nats an image.
        responsibilities: p(k | image), the soft assignment to components, or to the classes of a product; its argmax is
            the hard one.
    """

    log_prob: np.ndarray
    responsibilities: np.ndarray


def scores(source: Source, pixels: Examples, *, chunk_size: int = ROWS) -> Scores:
    """The scores of images [N, ...], uint8 or floating point as `jgmm.data.to_features` takes them.

    Raises:
        InputError: For no images, a wrong shape, and a source without a density.
    """
    parts = _in_chunks(source, pixels, _scores, None, chunk_size)
    return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def log_probs(
    source: Source, pixels: Examples, *, key: PRNGKeyArray | None = None, chunk_size: int = ROWS
) -> np.ndarray:
    """The log-density of images in pixel units alone; of images with uniform noise as wide as an 8-bit step if a key is
    given. Raises InputError as `scores`."""
    return np.concatenate([part for (part,) in _in_chunks(source, pixels, _log_prob, key, chunk_size)])


def bits_per_dim(key: PRNGKeyArray, source: Source, pixels: Examples, *, chunk_size: int = ROWS) -> float:
    """Bits per dimension of 8-bit images, by uniform dequantization, one draw of the noise an image.

        −[E_u log p(x + u) + D log δ] / (D log 2),   u uniform on the cell of side δ = 1/127.5 around each 8-bit value

    bounds the code length of the discrete image from above (Theis, van den Oord and Bethge, A note on the evaluation
    of generative models, 2016, section 3.1). The noise is centered, so that the density is integrated over the cell
    around the value that the mixture was fitted to.

    Raises:
        InputError: For pixels of another type: without cells there are no bits to count.
    """
    check(pixels.dtype == np.uint8, f"bits per dimension are defined for uint8 images, got {pixels.dtype}.")
    nats = log_probs(source, pixels, key=key, chunk_size=chunk_size).mean(dtype=np.float64)
    return to_bits(float(nats), source.shape)


def to_bits(nats: float, shape: tuple[int, ...]) -> float:
    """Bits per dimension of a mean log-density of 8-bit images of a shape with uniform noise, nats an image."""
    return float(-(nats / np.prod(shape) + np.log(STEP)) / np.log(2))


@partial(jax.jit, static_argnames=("shape", "dtype"))
def dequantization_noise(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any) -> Array:
    """Noise uniform over the cell of an 8-bit value in [-1, 1]."""
    return jax.random.uniform(key, shape, dtype, -STEP / 2, STEP / 2)


def feature_chunks(
    pixels: Examples, dtype: DTypeLike, key: PRNGKeyArray | None = None, chunk_size: int = ROWS
) -> Iterator[tuple[Array, int]]:
    """Images as rows of features, a chunk of one compiled shape at a time, and how many of its rows are images; with
    dequantization noise if a key is given."""
    for i, start in enumerate(range(0, len(pixels), chunk_size)):
        x = to_features(pixels[start : start + chunk_size], dtype)
        n = len(x)
        x = np.pad(x, ((0, chunk_size - n), (0, 0)))
        if key is not None:
            x = x + dequantization_noise(jax.random.fold_in(key, i), x.shape, x.dtype)
        yield jnp.asarray(x), n


@jax.jit
def _log_prob(source: Source, x: Array) -> tuple[Array]:
    return (source.log_prob(x.reshape(-1, *source.shape)),)


@jax.jit
def _scores(source: Source, x: Array) -> tuple[Array, Array]:
    gmm, z = source.gmm, source.encoder.encode(x)
    clusters = gmm.responsibilities(z) if isinstance(gmm, GMM) else gmm.class_responsibilities(z)
    return *_log_prob(source, x), clusters


def _in_chunks(
    source: Source, pixels: Examples, f: Callable[..., tuple], key: PRNGKeyArray | None, chunk_size: int
) -> list[tuple[np.ndarray, ...]]:
    """f of the images without normalization."""
    check(len(pixels) > 0, "there are no images to evaluate.")
    fits = pixels.shape[1:] == source.shape
    check(fits, f"expected images of shape {('n', *source.shape)}, got {pixels.shape}.")
    source = normalize(source, "none")
    chunks = feature_chunks(pixels, source.gmm.dtype, key, chunk_size)
    return [tuple(np.asarray(part)[:n] for part in f(source, x)) for x, n in chunks]


def mean_log_prob(gmm: Mixture, x: Float[Array, "n d"]) -> float:
    """The mean log-density of rows under a mixture, nats a row, a chunk at a time and summed in float64."""
    return float(np.asarray(_log_prob_of_rows(gmm, x)).mean(dtype=np.float64))


@jax.jit
def _log_prob_of_rows(gmm: Mixture, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return map_chunks(gmm.log_prob, x)

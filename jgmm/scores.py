"""What a source says of images, one by one: log-density, and the share every component has in them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jgmm import mixture, source
from jgmm.checks import check
from jgmm.data.images import STEP, to_features
from jgmm.source import Source

ROWS = 2048


class Scores(NamedTuple):
    """Of N images in pixel units.

    Fields:
        log_prob: the log-density, nats an image.
        responsibilities: p(k | image), the soft assignment; its argmax is the hard one.
    """

    log_prob: np.ndarray
    responsibilities: np.ndarray


def scores(params: Source, pixels: np.ndarray, *, chunk_size: int = ROWS) -> Scores:
    """The scores of images [N, ...], uint8 or floating point as `jgmm.data.to_features` takes them.

    Raises InputError for no images, a wrong shape, and a source without a density.
    """
    parts = _in_chunks(params, pixels, _scores, None, chunk_size)
    return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def log_prob(
    params: Source, pixels: np.ndarray, *, key: PRNGKeyArray | None = None, chunk_size: int = ROWS
) -> np.ndarray:
    """The log-density of images in pixel units alone; of images with uniform noise as wide as an 8-bit step if a key is
    given. Raises InputError as `scores`."""
    return np.concatenate([part for (part,) in _in_chunks(params, pixels, _log_prob, key, chunk_size)])


@partial(jax.jit, static_argnames=("shape", "dtype"))
def cell_noise(key: PRNGKeyArray, shape: tuple[int, int], dtype: np.dtype) -> Array:
    """Noise uniform over the cell of an 8-bit value in [-1, 1]."""
    return jax.random.uniform(key, shape, dtype, -STEP / 2, STEP / 2)


@jax.jit
def _log_prob(params: Source, x: Array) -> tuple[Array]:
    return (source.log_prob(params, x.reshape(-1, *params.shape)),)


@jax.jit
def _scores(params: Source, x: Array) -> tuple[Array, Array]:
    codes = params.rotation.encode(x)
    return *_log_prob(params, x), mixture.responsibilities(params.gmm, codes)


def _in_chunks(
    params: Source, pixels: np.ndarray, f: Callable[..., tuple], key: PRNGKeyArray | None, chunk_size: int
) -> list[tuple[np.ndarray, ...]]:
    """f of the images without normalisation, a chunk of one compiled shape at a time."""
    check(len(pixels) > 0, "there are no images to evaluate.")
    fits = pixels.shape[1:] == params.shape
    check(fits, f"expected images of shape {('n', *params.shape)}, got {pixels.shape}.")
    dtype = params.gmm.means.dtype
    params = source.normalize(params, "none")
    parts = []
    for i, start in enumerate(range(0, len(pixels), chunk_size)):
        x = to_features(pixels[start : start + chunk_size], dtype)
        n = len(x)
        x = np.pad(x, ((0, chunk_size - n), (0, 0)))
        if key is not None:
            x = x + cell_noise(jax.random.fold_in(key, i), x.shape, dtype)
        parts.append(tuple(np.asarray(part)[:n] for part in f(params, jnp.asarray(x))))
    return parts

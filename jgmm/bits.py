"""Bits per dimension of 8-bit images under a source, by uniform dequantisation.

    −[E_u log p(x + u) + D log δ] / (D log 2),   u uniform on the cell of side δ = 1/127.5 around each 8-bit value

bounds the code length of the discrete image from above (Theis, van den Oord and Bethge, A note on the evaluation
of generative models, 2016, section 3.1). The noise is centred, so that the density is integrated over the cell
around the value that the mixture was fitted to.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, UInt8

from jgmm.checks import check
from jgmm.data.images import STEP, to_features
from jgmm.source import Source, log_prob, normalize

ROWS = 2048


@jax.jit
def _chunk(params: Source, x: jax.Array, noise: jax.Array) -> jax.Array:
    return log_prob(params, (x + noise).reshape(-1, *params.shape))


def mean_log_prob(
    params: Source, pixels: np.ndarray, *, key: PRNGKeyArray | None = None, chunk_size: int = ROWS
) -> float:
    """The mean log-density of images in pixel units, nats an image; with uniform noise if a key is given."""
    check(len(pixels) > 0, "there are no images to evaluate.")
    dtype = params.gmm.means.dtype
    params = normalize(params, "none")
    total = 0.0
    for i, start in enumerate(range(0, len(pixels), chunk_size)):
        x = to_features(pixels[start : start + chunk_size], dtype)
        n = x.shape[0]
        x = np.pad(x, ((0, chunk_size - n), (0, 0)))  # one compiled shape
        noise = jnp.zeros((), dtype) if key is None else cell_noise(jax.random.fold_in(key, i), x.shape, dtype)
        total += np.asarray(_chunk(params, x, noise), np.float64)[:n].sum()
    return total / len(pixels)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def cell_noise(key: PRNGKeyArray, shape: tuple[int, int], dtype: np.dtype) -> jax.Array:
    """Noise uniform over the cell of an 8-bit value in [-1, 1]."""
    return jax.random.uniform(key, shape, dtype, -STEP / 2, STEP / 2)


def bits_per_dim(
    key: PRNGKeyArray, params: Source, pixels: UInt8[np.ndarray, "n ..."], *, chunk_size: int = ROWS
) -> float:
    """Bits per dimension of uint8 images, one draw of the noise an image.

    Raises InputError for pixels of another type: without cells there are no bits to count.
    """
    check(pixels.dtype == np.uint8, f"bits per dimension are defined for uint8 images, got {pixels.dtype}.")
    d = int(np.prod(params.shape))
    nats = mean_log_prob(params, pixels, key=key, chunk_size=chunk_size)
    return -(nats / d + np.log(STEP)) / np.log(2)

"""Whether a source draws its training data: how near its draws lie to them, beside images that it has not seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.encoder.base import Encoder
from jgmm.errors import check, check_count
from jgmm.metrics.likelihood import feature_chunks
from jgmm.numerics.arguments import as_key
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.distances import squared_distances
from jgmm.source import Source, normalize

# Images compared with at a time.
ROWS = 4096


class Memorization(NamedTuple):
    """Euclidean distances to the nearest training image, in codes.

    Attributes:
        draws: Of every draw.
        held_out: Of every held-out image.
    """

    draws: np.ndarray
    held_out: np.ndarray

    @property
    def copies(self) -> int:
        """How many draws lie nearer to a training image than any held-out image does."""
        return int((self.draws < self.held_out.min()).sum())


def memorization(
    key: PRNGKeyArray, source: Source, train: np.ndarray, held_out: np.ndarray, n: int = 5000
) -> Memorization:
    """The distances of n draws, and of held-out images, to the nearest of the training images.

    Codes are whitened, so that distances count all directions alike: a draw that repeats an image, but for noise, lies
    within the noise of it, and images of one subject do not. Images are pixels [N, ...] as `jgmm.data` has them.

    Raises:
        InputError: For images of another shape than the source's, and n below one.

    >>> import jax, jgmm, numpy as np
    >>> from jgmm.encoder.identity import Identity
    >>> x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    >>> gmm = jgmm.fit_em(0, x[:200], k=2).gmm
    >>> found = memorization(jax.random.key(0), jgmm.unnormalized(gmm, Identity(4), (4,)), x[:200], x[200:], 100)
    >>> found.draws.shape, found.held_out.shape
    ((100,), (100,))
    """
    key, n = as_key(key), check_count("n", n)
    for name, images in {"train": train, "held_out": held_out}.items():
        fits = np.shape(images)[1:] == source.shape and len(images) > 0
        check(fits, f"{name} must be images of shape {('n', *source.shape)}, got {np.shape(images)}.")
    draws = normalize(source, "none").sample(key, n)
    known = _codes(source, train)
    return Memorization(
        nearest_distance(source.encoder.encode(draws.reshape(n, -1)), known),
        nearest_distance(_codes(source, held_out), known),
    )


def nearest_distance(x: Float[Array, "n d"], to: Float[Array, "m d"]) -> np.ndarray:
    """The Euclidean distance of every row of x to the nearest row of `to`."""
    parts = [_least(x, to[start : start + ROWS]) for start in range(0, to.shape[0], ROWS)]
    return np.sqrt(np.min([np.asarray(part) for part in parts], axis=0))


@jax.jit
def _least(x: Float[Array, "n d"], to: Float[Array, "m d"]) -> Float[Array, " n"]:
    distances = squared_distances(to, jnp.ones((1, 1), x.dtype))
    return map_chunks(lambda rows: distances(rows).min(axis=1), x)


def _codes(source: Source, images: np.ndarray) -> Float[Array, "n d"]:
    chunks = feature_chunks(images, source.gmm.dtype)
    return jnp.concatenate([_encode(source.encoder, x)[:n] for x, n in chunks])


@jax.jit
def _encode(encoder: Encoder, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
    return encoder.encode(x)

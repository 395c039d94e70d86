"""Where a flow runs: on pixels, or on whitened images.

Whitening keeps the image grid: W = V diag(1/√(e + ε)) Vᵀ with the eigenvectors V and eigenvalues e of the covariance of
the pixels (Bell and Sejnowski, The "independent components" of natural scenes are edge filters, 1997: ZCA). Every
direction of the images then has a variance near 1, so that the squared loss sees all of them.
"""

import abc

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jgmm
from jgmm import pca
from jgmm.data import Images
from jgmm.data.images import STEP
from jgmm.products import matmul
from jgmm.source import normalize
from jgmm.types import pytree


class Space(abc.ABC):
    """An invertible map of images [B, H, W, C]; pixels are those of [-1, 1]."""

    @abc.abstractmethod
    def of_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Into the space."""

    @abc.abstractmethod
    def to_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """And back."""

    @abc.abstractmethod
    def prepare(self, params: jgmm.Source) -> jgmm.Source:
        """A fitted mixture whose draws `of_pixels` makes the x0 of this space."""


@pytree
class Pixel(Space):
    """The pixels themselves."""

    def of_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return x

    def to_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return x

    def prepare(self, params: jgmm.Source) -> jgmm.Source:
        return params  # here the flow starts from normalised images


@pytree
class Zca(Space):
    """Whitened images: y = W (x − mean)."""

    mean: Float[Array, " p"]
    whiten: Float[Array, "p p"]
    colour: Float[Array, "p p"]

    def of_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return matmul(x.reshape(x.shape[0], -1) - self.mean[None], self.whiten).reshape(x.shape)

    def to_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return (matmul(x.reshape(x.shape[0], -1), self.colour) + self.mean[None]).reshape(x.shape)

    def prepare(self, params: jgmm.Source) -> jgmm.Source:
        return normalize(params, "none")


def pixel(images: Images, epsilon: float) -> Pixel:
    """The space of pixels."""
    return Pixel()


def zca(images: Images, epsilon: float) -> Zca:
    """The space whitened by the covariance of these images, computed in float64; ε in squared pixels."""
    mean, covariance = pca.covariance(images.pixels.reshape(len(images), -1), STEP)
    e, v = np.linalg.eigh(covariance)
    scale = np.sqrt(np.maximum(e, 0) + epsilon)

    def matrix(diagonal: np.ndarray) -> Array:
        return jnp.asarray((v * diagonal) @ v.T, jnp.float32)

    return Zca(jnp.asarray(mean - 1, jnp.float32), matrix(1 / scale), matrix(scale))


SPACES = {"pixel": pixel, "zca": zca}

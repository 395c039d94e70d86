"""Where a flow runs: on pixels, or on whitened images.

Whitening keeps the image grid: W = V diag(1/√(e + ε)) Vᵀ with the eigenvectors V and eigenvalues e of the covariance of
the pixels (Bell and Sejnowski, The "independent components" of natural scenes are edge filters, 1997: ZCA). Every
direction of the images then has a variance near 1, so that the squared loss sees all of them.
"""

import abc
from typing import Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jgmm
from jgmm import pca
from jgmm.data import Images
from jgmm.products import matmul
from jgmm.source import normalize
from jgmm.types import pytree


class Space(abc.ABC):
    """An invertible map of images [B, H, W, C]; 8-bit pixels are in [-1, 1], others as they are."""

    @classmethod
    @abc.abstractmethod
    def of(cls, images: Images, epsilon: float) -> Self:
        """The space for these images; ε in squared pixels, for a space that wants it."""

    @classmethod
    @abc.abstractmethod
    def blank(cls, shape: tuple[int, ...]) -> Self:
        """A space of the same structure for images of this shape, its values of no meaning."""

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

    @classmethod
    def of(cls, images: Images, epsilon: float) -> Self:
        return cls()

    @classmethod
    def blank(cls, shape: tuple[int, ...]) -> Self:
        return cls()

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

    @classmethod
    def of(cls, images: Images, epsilon: float) -> Self:
        """By the covariance of these images, computed in float64."""
        scale, shift, _ = images.units
        mean, covariance = pca.covariance(images.pixels.reshape(len(images), -1), scale)
        e, v = np.linalg.eigh(covariance)
        deviation = np.sqrt(np.maximum(e, 0) + epsilon)

        def matrix(diagonal: np.ndarray) -> Array:
            return jnp.asarray((v * diagonal) @ v.T, jnp.float32)

        return cls(jnp.asarray(mean + shift, jnp.float32), matrix(1 / deviation), matrix(deviation))

    @classmethod
    def blank(cls, shape: tuple[int, ...]) -> Self:
        p = int(np.prod(shape))
        return cls(jnp.zeros(p), jnp.zeros((p, p)), jnp.zeros((p, p)))

    def of_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return matmul(x.reshape(x.shape[0], -1) - self.mean[None], self.whiten).reshape(x.shape)

    def to_pixels(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        return (matmul(x.reshape(x.shape[0], -1), self.colour) + self.mean[None]).reshape(x.shape)

    def prepare(self, params: jgmm.Source) -> jgmm.Source:
        return normalize(params, "none")


SPACES: dict[str, type[Space]] = {"pixel": Pixel, "zca": Zca}

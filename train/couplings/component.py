"""Couplings by component: an image gets a draw from the component that explains it."""

from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.data import Images
from jgmm.encoder.base import Encoder
from jgmm.errors import InputError, check
from jgmm.numerics.pytree import pytree
from jgmm.product.mixture import ProductMixture
from train.batches import Batch
from train.config import Config
from train.couplings.base import Coupling
from train.sources import Mixture, NoiseSource, Reversed


@pytree
class Component(Coupling):
    """A draw from the component that explains the image, k ~ p(k | x1): the marginal of x0 stays the mixture, as far as
    the images are drawn from it. `log_r` holds log p(k | image) of the images and, where images are mirrored, of their
    mirror images."""

    source: Mixture
    log_r: Float[Array, "m n k"]
    rho: float = field(metadata={"static": True})
    options: ClassVar[tuple[str, ...]] = ("rho",)

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        for_component, for_draw = jax.random.split(key)
        k = posterior_component(for_component, self.log_r, batch)
        return self.source.draw_near(for_draw, batch.pixels, k, self.rho)


@pytree
class Labels(Coupling):
    """The same for a product of block mixtures: the labels of all blocks come from their posterior given the image."""

    source: Mixture
    rho: float = field(metadata={"static": True})
    options: ClassVar[tuple[str, ...]] = ("rho",)

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        for_labels, for_draw = jax.random.split(key)
        flat = batch.pixels.reshape(batch.pixels.shape[0], -1)
        product: Any = self.source.params.gmm
        labels = product.sample_labels(for_labels, self.source.params.encoder.encode(flat))
        return self.source.draw_near(for_draw, batch.pixels, labels, self.rho)


def posterior_component(key: PRNGKeyArray, log_r: Float[Array, "m n k"], batch: Batch) -> Int[Array, " b"]:
    """k ~ p(k | image) for the images of a batch."""
    mirrored = batch.mirrored.astype(jnp.int32) if log_r.shape[0] == 2 else jnp.zeros_like(batch.rows)
    return jax.random.categorical(key, log_r[mirrored, batch.rows], axis=1)


def log_responsibilities(config: Config, images: Images, source: NoiseSource) -> tuple[Mixture, Float[Array, "m n k"]]:
    """A source that is a mixture, and log p(k | image) of the images and, with flips, of their mirror images.

    Raises:
        InputError: For a source that has no components, and a product, which has too many to count.
    """
    if not isinstance(source, Mixture):
        raise InputError(
            f"--coupling {config.coupling} draws from a mixture: give --source mle or a run folder of jgmm.fit."
        )
    check(
        not isinstance(source.params.gmm, ProductMixture),
        f"--coupling {config.coupling} needs components that can be counted, and a product of block mixtures has too "
        "many: take --coupling component, or a plain mixture.",
    )
    return source, source.log_responsibilities(images, config.flips)


def component(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Component | Labels:
    """See `Component`; the responsibilities of all images are computed here, once. Raises InputError for a source that
    has no components, and ρ > 0 where the images are not of the mixture."""
    check(
        config.rho == 0 or not isinstance(source, Reversed),
        "--rho keeps an image's place in its component, and a reversed source has none for images: leave it out.",
    )
    if isinstance(source, Mixture) and isinstance(source.params.gmm, ProductMixture):
        return Labels(source, config.rho)
    return Component(*log_responsibilities(config, images, source), config.rho)

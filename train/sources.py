"""Where x0 comes from. A source is a pytree with `draw(key, n) -> [n, H, W, C]`, in the space of the flow."""

import abc
from dataclasses import field, replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jgmm.checkpoint.models import load_source, read_config, read_other
from jgmm.commands.inputs import check_convention
from jgmm.covariance.diag import Diag
from jgmm.data import Images, rescale
from jgmm.encoder.base import Encoder
from jgmm.encoder.identity import Identity
from jgmm.encoder.images import decode_images, encode_images
from jgmm.encoder.pca import fit_pca
from jgmm.encoder.scatter import mean_and_covariance
from jgmm.errors import InputError, check
from jgmm.metrics.likelihood import scores
from jgmm.mixture import GMM
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from jgmm.source import Source, given_component, normalize, unnormalized
from train.config import Config
from train.registry import SOURCES

# Draws that the mean norm of a source is estimated from.
DRAWS = 8192
# Draws and images that a mixture's units are compared by, and how many times another deviation can be.
SHOWN, OTHER_UNITS = 256, 4
# Shares below this are not told apart from it: a logarithm must be finite.
SMALLEST = 1e-30
# Pruning (arXiv 2512.18184): an axis is sparse if no image has a larger cosine with it, and a draw is rejected if its
# cosine with a sparse axis is larger.
SPARSE, REJECTED = 0.01, 0.048


class NoiseSource(abc.ABC):
    """A distribution of x0, all of them multiplied by `scale`."""

    scale: Float[Array, ""]

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n h w c"]:
        """n independent draws; n is static under jit."""

    def shown(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Draws as images: pixels in [-1, 1], as far as they are of images at all."""
        return decode_images(space, x0)

    def log_prob(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, " n"]:
        """The log-density of x0, nats an image. Raises InputError for a source that has none."""
        raise InputError(f"the source {type(self).__name__} has no log_prob: no likelihood can be computed.")


@pytree
class Gaussian(NoiseSource):
    """N(0, I)."""

    shape: tuple[int, ...] = field(metadata={"static": True})
    scale: Float[Array, ""] = field(default_factory=lambda: jnp.ones(()))

    @classmethod
    def build(cls, config: Config, images: Images, space: Encoder) -> "Gaussian":
        """For images of this shape."""
        return cls(images.shape)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n h w c"]:
        return self.scale * jax.random.normal(key, (n, *self.shape))

    def log_prob(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, " n"]:
        z = x0.reshape(x0.shape[0], -1) / self.scale
        d = z.shape[1]
        return -0.5 * (z**2).sum(axis=1) - d * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(self.scale))


@pytree
class Mixture(NoiseSource):
    """A fitted mixture: normalized images, its statistics baked in; whitened ones in a whitened space."""

    params: Source
    space: Encoder
    scale: Float[Array, ""] = field(default_factory=lambda: jnp.ones(()))

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n h w c"]:
        return self.scale * encode_images(self.space, self.params.sample(key, n))

    def shown(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return self.params.to_pixels(decode_images(self.space, x0 / self.scale))

    def log_prob(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, " n"]:
        d = prod(self.params.shape)
        nats = self.params.log_prob(decode_images(self.space, x0 / self.scale))
        return nats - self.space.log_det() - d * jnp.log(self.scale)

    def draw_near(
        self, key: PRNGKeyArray, pixels: Float[Array, "b h w c"], component: Int[Array, "b ..."], rho: float
    ) -> Float[Array, "b h w c"]:
        """x0 of the component given for each image, of a product of the labels of its blocks, keeping the share ρ of
        the image's own place in it:

            z0 = μ_k + ρ (z1 − μ_k) + √(1 − ρ²) Σ_k^½ ε,      residual likewise about 0

        If k ~ p(k | x1) and x1 is drawn from the mixture, so is x0.
        """
        gmm, encoder = self.params.gmm, self.params.encoder
        for_codes, for_residual = jax.random.split(key)
        n, fresh = pixels.shape[0], jnp.sqrt(1 - rho**2)
        mean, deviation = given_component(gmm, component, fresh * jax.random.normal(for_codes, (n, gmm.d)))
        residual = fresh * jax.random.normal(for_residual, (n, encoder.n_residual))
        if rho > 0:
            flat = pixels.reshape(n, -1)
            deviation = deviation + rho * (encoder.encode(flat) - mean)
            residual = residual + rho * encoder.residual(flat)
        x = encoder.decode(mean + deviation, residual).reshape(pixels.shape)
        return self.scale * encode_images(self.space, self.params.from_pixels(x))

    def log_responsibilities(self, images: Images, flips: bool) -> Float[Array, "m n k"]:
        """log p(k | image) of the images and, with flips, of their mirror images."""
        views = [images.pixels, images.pixels[:, :, ::-1]] if flips else [images.pixels]
        shares = np.stack([scores(self.params, view).responsibilities for view in views])
        return jnp.log(jnp.maximum(shares, SMALLEST))

    def draw_components(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n h w c"], Int[Array, " n"]]:
        """n draws and the components that they are from; the mixture is no product."""
        for_component, for_draw = jax.random.split(key)
        gmm: Any = self.params.gmm
        k = jax.random.categorical(for_component, gmm.log_weights, shape=(n,))
        return self.draw_near(for_draw, jnp.zeros((n, *self.params.shape)), k, 0.0), k


@pytree
class Reversed(Mixture):
    """Gaussians of images that a flow has carried backward (`python -m train.reverse`): a mixture of x0 as they are, in
    the space `Identity`. `labels` says which component each image, and with flips its mirror image, belongs to."""

    labels: Int[Array, "m n"] = field(default_factory=lambda: jnp.zeros((1, 0), jnp.int32))

    def shown(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return decode_images(space, x0)

    def log_responsibilities(self, images: Images, flips: bool) -> Float[Array, "m n k"]:
        views = 2 if flips else 1
        fits = self.labels.shape[0] >= views and self.labels.shape[1] == len(images)
        check(fits, "the reversed source knows the components of other images, or of no mirror images: --no-flips.")
        return jnp.log(jnp.maximum(jax.nn.one_hot(self.labels[:views], self.params.gmm.k), SMALLEST))


@pytree
class Pruned:
    """Another source without the draws that point where no images are. For sampling: it is not jittable."""

    inner: NoiseSource
    axes: Float[Array, "a p"]

    def shown(self, space: Encoder, x0: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """See `NoiseSource`."""
        return self.inner.shown(space, x0)

    def keeps(self, x: Float[Array, "n h w c"]) -> Bool[Array, " n"]:
        """Which draws are not rejected."""
        flat = x.reshape(x.shape[0], -1)
        cosine = matmul(flat, self.axes.T) / jnp.linalg.norm(flat, axis=1, keepdims=True)
        return (cosine <= REJECTED).all(axis=1)

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n h w c"]:
        kept: list[np.ndarray] = []
        for i in range(1000):
            if sum(map(len, kept)) >= n:
                break
            x = self.inner.draw(jax.random.fold_in(key, i), n)
            kept.append(np.asarray(x)[np.asarray(self.keeps(x))])
        found = np.concatenate(kept)[:n]
        check(len(found) == n, f"--prune rejects nearly all draws: {len(found)} of {1000 * n} were left.")
        return jnp.asarray(found)


def mle(config: Config, images: Images, space: Encoder) -> Mixture:
    """One Gaussian with the mean and the full covariance of the images, which are normal along principal components."""
    rows = images.pixels.reshape(len(images), -1)
    encoder, _ = fit_pca(rows, **images.units._asdict())
    gmm = GMM(jnp.zeros(1), jnp.zeros((1, encoder.n_codes)), Diag.identity(1, encoder.n_codes))
    return Mixture(_for_space(normalize(unnormalized(gmm, encoder, images.shape)), space), space)


def fitted(config: Config, images: Images, space: Encoder) -> Mixture:
    """The mixture of a run folder. Raises InputError for images of another shape, and one computed in float64."""
    check(
        Path(config.source).is_dir(),
        f"--source expects {', '.join(SOURCES)} or a run folder of jgmm.fit or train.reverse, got {config.source!r}, "
        "which is none.",
    )
    run = read_config(config.source)
    theirs = run["model"]
    shape = tuple(theirs.get("shape", ()))
    check(
        shape == images.shape, f"--source {config.source} models images of shape {shape}, the data have {images.shape}."
    )
    single = theirs["dtype"] == "float32"
    check(single, f"--source {config.source} was computed in float64: fit it with --dtype float32.")
    if "reversed" in run:
        return _reversed(config, run, images)
    check_convention(run, images, "fit the source to these")
    params = load_source(config.source)
    _check_units(config, params, images)
    return Mixture(_for_space(params, space), space)


def _reversed(config: Config, run: dict[str, Any], images: Images) -> Reversed:
    made = run["reversed"]
    whitened = made["space"] == "zca"
    given = f"--space {made['space']}" + (f" --zca-epsilon {made['zca_epsilon']}" if whitened else "")
    same = made["space"] == config.space and (not whitened or made["zca_epsilon"] == config.zca_epsilon)
    check(same, f"--source {config.source} is of a flow that was trained with {given}: give the same.")
    same = made["data_sha256"] == images.sha256
    check(
        same, f"--source {config.source} is of a flow that was trained on other images, or another --holdout or --size."
    )
    labels = read_other(Path(config.source), run, "labels.npy")
    return Reversed(load_source(config.source), Identity(prod(images.shape)), labels=jnp.asarray(labels))


def _check_units(config: Config, params: Source, images: Images) -> None:
    """Raise InputError for a mixture of pixels in other units, of which images would be no draws."""
    theirs = np.asarray(normalize(params, "none").sample(jax.random.key(0), SHOWN), np.float64)
    ours = rescale(images.pixels[:: -(-len(images) // SHOWN)]).astype(np.float64)
    least, most = sorted([theirs.std(), ours.std()])
    check(
        abs(theirs.mean() - ours.mean()) <= OTHER_UNITS * most <= OTHER_UNITS**2 * least,
        f"--source {config.source} models pixels of {theirs.mean():.3g} ± {theirs.std():.3g}, the data have "
        f"{ours.mean():.3g} ± {ours.std():.3g}: fit it to data in the same units (8-bit pixels are read as [-1, 1]).",
    )


def _for_space(params: Source, space: Encoder) -> Source:
    """A mixture whose draws, encoded, are the x0 of a space: normalized images in pixels, plain ones elsewhere."""
    return params if isinstance(space, Identity) else normalize(params, "none")


def build(config: Config, images: Images, space: Encoder) -> Any:
    """The source that the options ask for. Raises InputError as `fitted`."""
    named = config.source in SOURCES
    found = SOURCES[config.source] if named else fitted
    source = getattr(found, "build", found)(config, images, space)
    return align(source, images, space) if config.norm_align else source


def align(source: Any, images: Images, space: Encoder) -> Any:
    """The source scaled so that the mean norm of its draws is that of the images, in the space of the flow."""

    @jax.jit
    def norms(x: Any) -> Array:
        return jnp.linalg.norm(encode_images(space, x).reshape(x.shape[0], -1), axis=1)

    chunks = np.array_split(images.pixels, -(-len(images) // DRAWS))
    of_images = np.concatenate([norms(rescale(part)) for part in chunks]).mean(dtype=np.float64)
    drawn = source.draw(jax.random.key(0), DRAWS)
    of_draws = np.asarray(jnp.linalg.norm(drawn.reshape(DRAWS, -1), axis=1)).mean(dtype=np.float64)
    return replace(source, scale=jnp.asarray(of_images / of_draws, jnp.float32))


def prune(source: NoiseSource, images: Images, space: Encoder) -> Pruned:
    """The source without draws along the sparse axes of these images.

    Axes are the principal directions, and their opposites, of images of unit norm and their mirror images; those with
    which no image has a cosine above 0.01 are sparse (arXiv 2512.18184, with the paper's definition).
    """
    parts = np.array_split(images.with_mirror_images().pixels, 32)
    x = np.concatenate([encode_images(space, jnp.asarray(rescale(part))) for part in parts])
    unit = x.reshape(len(x), -1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    _, covariance = mean_and_covariance(unit)
    axes = np.linalg.eigh(covariance)[1].T.astype(np.float32)
    cosines = [part @ axes.T for part in np.array_split(unit, 32)]
    largest = np.max([c.max(axis=0) for c in cosines], axis=0)
    least = np.min([c.min(axis=0) for c in cosines], axis=0)
    return Pruned(source, jnp.asarray(np.concatenate([axes[largest <= SPARSE], -axes[-least <= SPARSE]])))

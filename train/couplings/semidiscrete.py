"""Couplings by semidiscrete optimal transport: every draw of the source has its image."""

from dataclasses import field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.data import Images, rescale
from jgmm.encoder.base import Encoder
from jgmm.encoder.images import encode_images
from jgmm.encoder.scatter import mean_and_covariance
from jgmm.errors import check
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from train.batches import Data, Keys
from train.config import Config
from train.couplings.base import Coupling, Pairs
from train.couplings.component import log_responsibilities
from train.couplings.potential import GOOD, Quality, fit_potential
from train.sources import NoiseSource

# Images coded at a time, images that draws are compared with at a time, the least share of a component that an image
# counts in, and the stream of random numbers of the fit, folded into the seed.
ROWS, COMPARED, LEAST_SHARE, STREAM = 4096, 1024, 1e-3, 2**31 - 4


@pytree
class Semidiscrete(Coupling):
    """A draw x0 of the source, and the image argmax_j [g_j − |x0 − y_j|²]; for ε > 0 an image drawn from the softmax
    (`train.couplings.potential`; AlignFlow, Lin et al., 2025; Mousavi-Hosseini et al., Flow matching with
    semidiscrete couplings, 2025).

    x0 has exactly the law of the source. That the images are those of the data, each as often as others, is what the
    potential g is fitted for, over the data and their mirror images. By component, a draw of component k goes to the
    images of that component, with a potential of its own.

    Attributes:
        source: of x0.
        axes: of the cost, in the space of the flow: all of it, or the first principal axes.
        codes: of the images, and then of their mirror images, along the axes.
        log_b: the log-share of every image, in each component where there are several.
        potential: g.
    """

    source: NoiseSource
    axes: Float[Array, "p d"]
    codes: Float[Array, "j d"]
    log_b: Float[Array, "g j"]
    potential: Float[Array, "g j"]
    epsilon: float = field(metadata={"static": True})
    rounds: int = field(metadata={"static": True})
    seed: int = field(metadata={"static": True})
    options: ClassVar[tuple[str, ...]] = ("cost_axes", "epsilon", "potential_rounds")
    kept: ClassVar[tuple[str, ...]] = ("potential",)

    def pairs(
        self, keys: Keys, data: Data, index: Int[Array, " b"], order: Int[Array, " b"] | None, memory: Any
    ) -> Pairs:
        x0, group = self._drawn(keys.coupling, index.shape[0])
        if self.epsilon == 0:
            image = self.nearest(self.potential, self._coded(x0), group)
        else:
            image = jax.random.categorical(keys.flips, self._logits(self.potential, self._coded(x0), group), axis=1)
        _, image = shard_alike(index, image.astype(index.dtype))  # each device looks up its part of the batch
        n = data.pixels.shape[0]
        return Pairs(x0, data.chosen(image % n, image >= n), memory)

    def fitted(self) -> "Semidiscrete":
        """The same with its potential; a line a round is printed."""
        key = jax.random.fold_in(jax.random.key(self.seed), STREAM)
        print(f"coupling: a potential over {self.codes.shape[0]:,} images along {self.codes.shape[1]} axes", flush=True)
        return replace(self, potential=fit_potential(key, self, self.rounds, _tell))

    def draws(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """See `Transport`."""
        x0, group = self._drawn(key, n)
        return self._coded(x0), group

    def shares(
        self, potential: Float[Array, "g j"], codes: Float[Array, "n d"], group: Int[Array, " n"]
    ) -> tuple[Float[Array, "g j"], Float[Array, "g j"]]:
        """See `Transport`."""
        nothing = jnp.zeros_like(potential)
        if self.epsilon == 0:
            hits = nothing.at[group, self.nearest(potential, codes, group)].add(1)
            return hits, hits
        p = jax.nn.softmax(self._logits(potential, codes, group), axis=1)
        return nothing.at[group].add(p), nothing.at[group].add(p * p)

    def nearest(
        self, potential: Float[Array, "g j"], codes: Float[Array, "n d"], group: Int[Array, " n"]
    ) -> Int[Array, " n"]:
        """argmax_j [g_j − |x − y_j|²] over the images of the group, a part of them at a time: on a CPU, XLA's argmax
        over all of them is no vector operation and takes longer than the matrix product."""
        parts = -(-self.codes.shape[0] // COMPARED)
        more = parts * COMPARED - self.codes.shape[0]
        y = jnp.pad(self.codes, ((0, more), (0, 0))).reshape(parts, COMPARED, -1)
        g = jnp.where(self.log_b > -jnp.inf, potential, -jnp.inf)
        g = jnp.pad(g, ((0, 0), (0, more)), constant_values=-jnp.inf).reshape(-1, parts, COMPARED)

        def best(part: tuple[Array, Array]) -> tuple[Array, Array]:
            s = _scores(*part, codes, group)
            top = s.max(axis=0, keepdims=True)
            return top, jnp.where(s == top, jnp.arange(COMPARED)[:, None], COMPARED).min(axis=0, keepdims=True)

        top, place = jax.lax.map(best, (y, g.swapaxes(0, 1)))
        part = top.argmax(axis=0, keepdims=True)
        return (part * COMPARED + jnp.take_along_axis(place, part, axis=0))[0, 0]

    def _drawn(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n h w c"], Int[Array, " n"]]:
        if self.log_b.shape[0] == 1:
            return self.source.draw(key, n), jnp.zeros(n, jnp.int32)
        mixture: Any = self.source
        return mixture.draw_components(key, n)

    def _coded(self, x: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
        return matmul(x.reshape(x.shape[0], -1), self.axes)

    def _logits(
        self, potential: Float[Array, "g j"], codes: Float[Array, "n d"], group: Int[Array, " n"]
    ) -> Float[Array, "n j"]:
        return _scores(self.codes, potential, codes, group).T / self.epsilon + self.log_b[group]


def _scores(
    y: Float[Array, "j d"], potential: Float[Array, "g j"], x: Float[Array, "n d"], group: Int[Array, " n"]
) -> Float[Array, "j n"]:
    """g − c up to a number for each draw."""
    bias = potential.T - (y**2).sum(axis=1, keepdims=True)
    return (bias if bias.shape[1] == 1 else bias[:, group]) + 2 * matmul(y, x.T)


def _tell(found: Quality) -> None:
    text = f"χ² of the images {found.chi2:.3f}, {found.unused:.1%} without one of {found.draws:,} draws"
    print(f"coupling: {found.steps} steps, {text}", flush=True)


def semidiscrete(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Semidiscrete:
    """See `Semidiscrete`."""
    j = (2 if config.flips else 1) * len(images)
    return _over(config, images, source, space, np.full((1, j), -np.log(j), np.float32))


def by_component(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Semidiscrete:
    """The same by component: b_j in component k is in proportion to p(k | image j). Raises InputError for a source that
    is no mixture, or a product of them, and components that have no images."""
    mixture, log_r = log_responsibilities(config, images, source)
    shares = np.exp(np.asarray(log_r, np.float64)).reshape(-1, log_r.shape[2]).T
    shares[shares < LEAST_SHARE] = 0
    total = shares.sum(axis=1, keepdims=True)
    empty = int((total == 0).sum())
    check(
        empty == 0,
        f"--coupling {config.coupling}: {empty} of the {len(total)} components of the source have no images of their "
        "own; take --coupling semidiscrete, or a mixture fitted to these images.",
    )
    gmm: Any = mixture.params.gmm
    often = np.exp(np.asarray(gmm.log_weights, np.float64)) @ (shares / total)
    unequal = float((often**2).sum() * len(often) - 1)
    if unequal > GOOD:
        print(
            f"coupling: some images are drawn more often than others, with χ² {unequal:.3f} at best: the source's "
            "weights are not the shares of its components in the images"
        )
    with np.errstate(divide="ignore"):
        return _over(config, images, mixture, space, np.log(shares / total).astype(np.float32))


def _over(config: Config, images: Images, source: NoiseSource, space: Encoder, log_b: np.ndarray) -> Semidiscrete:
    axes = _axes(config.cost_axes, images)
    views = [images.pixels, images.pixels[:, :, ::-1]] if config.flips else [images.pixels]
    parts = [view[i : i + ROWS] for view in views for i in range(0, len(view), ROWS)]
    code = jax.jit(lambda space, axes, x: matmul(encode_images(space, x).reshape(x.shape[0], -1), axes))
    codes = jnp.concatenate([code(space, axes, jnp.asarray(rescale(part))) for part in parts])
    unit = float(np.asarray(codes).var(axis=0).sum())
    potential = jnp.zeros(log_b.shape, jnp.float32)
    shares = jnp.asarray(log_b)
    return Semidiscrete(
        source, axes, codes, shares, potential, config.epsilon * unit, config.potential_rounds, config.seed
    )


def _axes(d: int, images: Images) -> Float[Array, "p d"]:
    """The first d principal axes of the images, or all axes of the space."""
    p = int(np.prod(images.shape))
    if d == 0 or d >= p:
        return jnp.eye(p)
    _, covariance = mean_and_covariance(rescale(images.pixels).reshape(len(images), -1))
    return jnp.asarray(np.linalg.eigh(covariance)[1][:, ::-1][:, :d], jnp.float32)

"""What a coupling is, and the one that couples nothing."""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.commands.options import flag
from jgmm.data import Images
from jgmm.encoder.base import Encoder
from jgmm.errors import InputError, check
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from train.base import Base
from train.batches import Batch, Data, Keys
from train.config import PRESETS, Config
from train.registry import COUPLINGS
from train.sources import NoiseSource

# The options that couplings have of their own.
OPTIONS = {"rho", "cost_axes", "epsilon", "potential_rounds"}


class Pairs(NamedTuple):
    """The pairs of one step.

    Attributes:
        x0: draws of the source, one for every image of the batch.
        batch: the images.
        memory: what the coupling remembers from now on.
    """

    x0: Float[Array, "b h w c"]
    batch: Batch
    memory: Any


class Coupling:
    """The joint law of x0 and images: a pytree with the source it draws from.

    Most couplings say which x0 belong to the images of a batch, and have `x0` alone; without it any draw goes with any
    image. One that is `assigned` gets the permutation of its draws whose `cost` is least, found on the host before the
    step. One that chooses the images as well, or remembers something from step to step, has a `pairs` of its own. All
    are pure and jittable, and functions of the seed, the step and the memory, which the checkpoints keep.
    """

    source: NoiseSource
    assigned: ClassVar[bool] = False
    # Whether x0 of the images of one label has the law of the source, which conditional flows need.
    keeps_labels: ClassVar[bool] = False
    # The options of `python -m train` that are this coupling's own, and the fields that `fitted` computes, which the
    # run folder keeps.
    options: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = ()

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        """A draw for every image; `order` is that of an assignment, for a coupling that is `assigned`."""
        return self.source.draw(key, batch.images.shape[0])

    def begin(self) -> Any:
        """What the coupling remembers before the first step: an array, or () for nothing."""
        return ()

    def fitted(self) -> "Coupling":
        """The coupling with the fields in `kept`, computed before training."""
        return self

    def pairs(
        self, keys: Keys, data: Data, index: Int[Array, " b"], order: Int[Array, " b"] | None, memory: Any
    ) -> Pairs:
        """The pairs of a step, whose images in turn are those of `index`."""
        batch = data.take(keys.flips, index)
        return Pairs(self.x0(keys.coupling, batch, order), batch, memory)

    def cost(self, keys: Keys, data: Data, index: Int[Array, " b"], memory: Any) -> Float[Array, "b b"]:
        """What it costs to give each image, in rows, each of the draws of the step."""
        draws = self.source.draw(keys.coupling, index.shape[0])
        return squared_distances(draws, data.take(keys.flips, index).images)


@pytree
class Independent(Coupling):
    """Any draw for any image."""

    source: NoiseSource
    keeps_labels: ClassVar[bool] = True


def independent(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Independent:
    """See `Independent`."""
    return Independent(source)


def squared_distances(x0: Float[Array, "b h w c"], x1: Float[Array, "b h w c"]) -> Float[Array, "b b"]:
    """|x1_i − x0_j|²."""
    a, b = x1.reshape(x1.shape[0], -1), x0.reshape(x0.shape[0], -1)
    return (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * matmul(a, b.T)


def inside(groups: Int[Array, " b"], cost: Float[Array, "b b"]) -> Float[Array, "b b"]:
    """The cost of an assignment that leaves no group: any that does costs more than all that do not."""
    elsewhere = 2 * jnp.abs(cost).max() * len(groups)
    return jnp.where(groups[:, None] == groups[None], cost, elsewhere)


def build(config: Config, images: Images, base: Base, kept: dict[str, np.ndarray] | None = None) -> Coupling:
    """The coupling that the options ask for, fitted, or with the arrays that a run has kept of it.

    Raises:
        InputError: For a source it cannot use, labels that it does not keep, and an option that is another coupling's.
    """
    coupling = COUPLINGS[config.coupling](config, images, base.source, base.space)
    for name in sorted(OPTIONS - set(coupling.options)):
        same = getattr(config, name) == getattr(PRESETS[config.preset], name)
        check(same, f"{flag(name)} is no option of --coupling {config.coupling}: leave it out.")
    check(
        coupling.keeps_labels or not config.conditional or kept is not None,  # as versions before trained
        f"--coupling {config.coupling} gives the images of a label other x0 than those of another, and sampling does "
        "not: for --conditional take independent, ot or cache.",
    )
    if not coupling.kept:
        return coupling
    if kept is None:
        fitted = coupling.fitted()
        # Every process takes what the first has found: sums in another order differ.
        kept = multihost_utils.broadcast_one_to_all({name: getattr(fitted, name) for name in coupling.kept})
    if not kept.keys() >= set(coupling.kept):
        raise InputError(f"{config.run_folder} is damaged: it lacks {', '.join(set(coupling.kept) - kept.keys())}.")
    return replace(coupling, **{name: jnp.asarray(kept[name]) for name in coupling.kept})

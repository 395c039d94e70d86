"""From x0 to images along the learned velocity, by diffrax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jgmm.encoder.base import Encoder
from jgmm.encoder.images import decode_images
from jgmm.errors import check, check_count
from jgmm.interpolant.solvers import Scheme, Transported, integrate
from jgmm.registry import SOLVERS

# Steps are counted in 32 bits.
MOST = 2**31 - 1
Velocity = Callable[[Float[Array, " b"], Float[Array, "b h w c"]], Float[Array, "b h w c"]]


def check_solver(solver: str, nfe: int) -> None:
    """Raise InputError for an unknown solver, and a number of evaluations that it cannot make."""
    check_count("--nfe", nfe, most=MOST)
    method = SOLVERS[solver]()
    fits = method.steps is None or nfe % method.stages == 0
    check(fits, f"{solver} makes {method.stages} evaluations a step: --nfe must be a multiple of that, got {nfe}.")


def solve(
    velocity: Velocity, x0: Float[Array, "b h w c"], solver: str, nfe: int, times: Float[Array, " t"] | None = None
) -> Transported:
    """Integrate dx = v(t, x) dt from t = 0 to 1, in nfe evaluations and equal steps; dopri5 chooses its own.

    Pure and jittable. With `times` x has a leading axis of those times.
    Raises InputError as `check_solver`.
    """
    check_solver(solver, nfe)
    method = SOLVERS[solver]()
    scheme = Scheme(solver, None if method.steps is None else nfe // method.stages)
    start = jnp.zeros((), x0.dtype)

    def motion(t: Any, x: Array) -> Array:
        return velocity(jnp.full(x.shape[0], t, x.dtype), x)

    return Transported(*integrate(motion, x0, start, start + 1, scheme, times))


def guided(model: Callable[..., Array], labels: Array | None, guidance: float) -> Velocity:
    """The velocity v(x) + g (v(x | label) − v(x)): g = 1 is that of the label, 0 that of none (Ho and Salimans,
    Classifier-free diffusion guidance, arXiv 2207.12598)."""
    if labels is None:
        return lambda t, x: model(t, x)
    if guidance == 1:
        return lambda t, x: model(t, x, labels)

    def velocity(t: Array, x: Array) -> Array:
        free = model(t, x)
        return free + guidance * (model(t, x, labels) - free)

    return velocity


def images(
    structure: nnx.GraphDef,
    parameters: nnx.State,
    space: Encoder,
    x0: Float[Array, "b h w c"],
    labels: Int[Array, " b"] | None,
    solver: str,
    nfe: int,
    guidance: float = 1.0,
    times: Float[Array, " t"] | None = None,
) -> Transported:
    """What a network makes of x0, in pixels of [-1, 1]. Pure; the structure, solver, nfe and guidance are static."""
    solved = solve(guided(nnx.merge(structure, parameters), labels, guidance), x0, solver, nfe, times)
    x = decode_images(space, solved.x) if times is None else jax.vmap(lambda x: decode_images(space, x))(solved.x)
    return Transported(x, solved.evaluations)

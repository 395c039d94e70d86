"""From x0 to images along the learned velocity, by diffrax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.checks import check, unknown
from jgmm.interpolant.solvers import SOLVERS

Velocity = Callable[[Float[Array, " b"], Float[Array, "b h w c"]], Float[Array, "b h w c"]]
# Of an adaptive solver, relative and absolute.
TOLERANCE = 1e-5


class Solved(NamedTuple):
    """The end of the flow, or the way to it, and how often the velocity was evaluated."""

    x: Float[Array, "..."]
    evaluations: Array


def check_solver(solver: str, nfe: int) -> None:
    """Raise InputError for an unknown solver, and a number of evaluations that it cannot make."""
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    check(nfe >= 1, f"--nfe must be at least 1, got {nfe}.")
    method = SOLVERS[solver]
    fits = method.steps is None or nfe % method.stages == 0
    check(fits, f"{solver} makes {method.stages} evaluations a step: --nfe must be a multiple of that, got {nfe}.")


def solve(
    velocity: Velocity, x0: Float[Array, "b h w c"], solver: str, nfe: int, times: Float[Array, " t"] | None = None
) -> Solved:
    """Integrate dx = v(t, x) dt from t = 0 to 1, in nfe evaluations and equal steps; dopri5 chooses its own.

    Pure and jittable. With `times` x has a leading axis of those times.
    Raises InputError as `check_solver`.
    """
    check_solver(solver, nfe)
    method = SOLVERS[solver]
    steps = None if method.steps is None else nfe // method.stages

    def field(t: Any, x: Any, _: Any) -> Array:
        return velocity(jnp.full(x.shape[0], t, x.dtype), x)

    adaptive = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        method.make(),
        0.0,
        1.0,
        None if steps is None else 1 / steps,
        x0,
        stepsize_controller=adaptive if steps is None else diffrax.ConstantStepSize(),
        saveat=diffrax.SaveAt(t1=True) if times is None else diffrax.SaveAt(ts=times),
        max_steps=4096 if steps is None else steps + 1,
        adjoint=diffrax.DirectAdjoint(),
    )
    made = method.stages * solution.stats["num_steps"] + method.first
    return Solved(solution.ys[0] if times is None else solution.ys, made)


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

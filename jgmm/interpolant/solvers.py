"""Points carried along a path: by its ordinary differential equation, dx = u_t dt, or by a stochastic one.

The solvers are diffrax's. A batch is one system: an adaptive step is chosen for all of its rows together.
"""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.errors import check_count, check_number
from jgmm.interpolant.ends import check_times
from jgmm.interpolant.paths import AnyPath, drift, fields, log_prob, points_of, velocity
from jgmm.numerics.arguments import as_floats, as_key, is_traced
from jgmm.numerics.pytree import pytree
from jgmm.registry import SOLVERS


class Method(NamedTuple):
    """A solver of diffrax.

    Attributes:
        make: its class.
        stages: evaluations of the field a step.
        first: those besides, in the first step.
        steps: how many where none are asked for; None where their size is chosen by the error.
    """

    make: Callable[[], diffrax.AbstractSolver]
    stages: int
    first: int
    steps: int | None


def euler() -> Method:
    """Euler's method: order 1."""
    return Method(diffrax.Euler, 1, 0, 100)


def midpoint() -> Method:
    """The midpoint method: order 2."""
    return Method(diffrax.Midpoint, 2, 0, 100)


def heun() -> Method:
    """Heun's method, the trapezoidal rule: order 2."""
    return Method(diffrax.Heun, 2, 0, 100)


def dopri5() -> Method:
    """Dormand and Prince's method of order 5, whose steps are chosen by the error."""
    return Method(diffrax.Dopri5, 6, 1, None)


@pytree
class Transported:
    """Where points have come.

    Attributes:
        x: the points at `end`, or at every one of `times`.
        evaluations: how often the velocity was evaluated, for the whole batch.

    >>> ip.transport(flow, x).x.shape
    (1, 2)
    """

    x: Float[Array, "*times n d"]
    evaluations: Int[Array, ""]


@pytree
class Scheme:
    """How an equation is solved.

    Attributes:
        solver: a name in `jgmm.registry.SOLVERS` ("euler", "midpoint", "heun", "dopri5"), or a function -> `Method`.
        steps: so many equal steps; None lets dopri5 choose them by rtol and atol, and is 100 for the others.
        rtol, atol: relative and absolute tolerance of an adaptive step.
        max_steps: diffrax raises its error beyond so many.
    Raises:
        InputError: For an unknown solver and steps < 1.
    """

    solver: Any = field(default="dopri5", metadata={"static": True})
    steps: int | None = field(default=None, metadata={"static": True})
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = field(default=4096, metadata={"static": True})

    def __post_init__(self) -> None:
        SOLVERS.resolve(self.solver)
        if self.steps is not None:
            check_count("steps", self.steps)
        check_count("max_steps", self.max_steps)


def transport(
    path: AnyPath,
    x: Float[Array, "n d"],
    *,
    start: float = 0.0,
    end: float = 1.0,
    times: Float[Array, " t"] | None = None,
    solver: str = "dopri5",
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Transported:
    """The flow of u from `start` to `end`, forward or backward.

    Args:
        path: The path whose velocity carries the points.
        x: Points at t = start.
        start, end: Times from 0 (the source) to 1 (the data).
        times: Where the points are kept, in the order of travel; None keeps the last alone.
        solver, steps, rtol, atol, max_steps: As in `Scheme`.
    Raises:
        InputError: For unknown solvers, times outside [0, 1] and points of another dimension.

    >>> print(ip.transport(flow, x, solver="euler", steps=20).x.round(3))
    [[3.1590002 0.       ]]
    """
    x = _checked(path, x, start, end)
    if times is not None:
        times = as_floats("times", times, x.dtype)
        check_times(times, times.size)
    scheme = _scheme(solver, steps, rtol, atol, max_steps)
    (moved, _), evaluations = _flow(path, x, start, end, times, scheme, False)
    return Transported(moved, evaluations)


def log_likelihood(
    path: AnyPath,
    x: Float[Array, "n d"],
    *,
    solver: str = "dopri5",
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Float[Array, " n"]:
    """log p_1(x) by change of variables: the points are carried back to t = 0, where

        log p_1(x) = log p_0(x_0) − ∫_0^1 div u_t(x_t) dt

    It differs from `log_prob(path, 1, x)` by the error of the solver alone. Raises as `transport`.

    >>> print(ip.log_likelihood(flow, x).round(3))
    [-9.145]
    """
    x = points_of(path, x)
    scheme = _scheme(solver, steps, rtol, atol, max_steps)
    (x0, volume), _ = _flow(path, x, 1.0, 0.0, None, scheme, True)
    return log_prob(path, 0.0, x0) + volume


@partial(jax.jit, static_argnames="volume")
def _flow(
    path: AnyPath, x: Array, start: Array, end: Array, times: Array | None, scheme: Scheme, volume: bool
) -> tuple[Any, Array]:
    """The points and, if asked for, ∫ div u dt along the way; and the number of evaluations."""

    def motion(t: Any, state: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        t = jnp.clip(t, 0, 1)  # the last step may pass an end by rounding
        if not volume:
            return velocity(path, t, state[0]), None
        moving = fields(path, t, state[0])
        return moving.velocity, moving.divergence

    state = (x, jnp.zeros_like(x[:, 0]) if volume else None)
    return integrate(motion, state, jnp.asarray(start, x.dtype), jnp.asarray(end, x.dtype), scheme, times)


def integrate(
    motion: Callable[[Any, Any], Any], state: Any, start: Array, end: Array, scheme: Scheme, times: Array | None = None
) -> tuple[Any, Array]:
    """The solution of d state = motion(t, state) dt at `end`, or with a leading axis at every one of `times`; and how
    often motion was evaluated. Pure and jittable; `state` is any pytree."""
    method = SOLVERS[scheme.solver]()
    steps = scheme.steps or method.steps
    adaptive = diffrax.PIDController(rtol=scheme.rtol, atol=scheme.atol)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, state, _: motion(t, state)),
        method.make(),
        start,
        end,
        None if steps is None else (end - start) / steps,
        state,
        stepsize_controller=adaptive if steps is None else diffrax.ConstantStepSize(),
        saveat=diffrax.SaveAt(t1=True) if times is None else diffrax.SaveAt(ts=times),
        max_steps=max(scheme.max_steps, (steps or 0) + 1),
    )
    found = solution.ys if times is not None else jax.tree.map(lambda leaf: leaf[0], solution.ys)
    return found, method.stages * solution.stats["num_steps"] + method.first


def diffuse(
    key: PRNGKeyArray,
    path: AnyPath,
    x: Float[Array, "n d"],
    *,
    epsilon: float,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 100,
) -> Float[Array, "n d"]:
    """A stochastic process with the densities p_t: dx = (u + ε ∇ log p) dt + √(2ε) dW forward in time, and with −ε
    backward, by `steps` equal steps of the Euler-Maruyama scheme.

    Raises:
        InputError: For ε < 0, steps < 1, times outside [0, 1] and points of another dimension.

    >>> ip.diffuse(key, flow, x, epsilon=0.1, steps=10).shape
    (1, 2)
    """
    key = as_key(key)
    if not is_traced(epsilon):
        check_number("epsilon", epsilon, least=0)
    check_count("steps", steps)
    x = _checked(path, x, start, end)
    return _diffuse(key, path, x, epsilon, start, end, steps)


@partial(jax.jit, static_argnames="steps")
def _diffuse(key: PRNGKeyArray, path: AnyPath, x: Array, epsilon: Array, start: Array, end: Array, steps: int) -> Array:
    start, end = jnp.asarray(start, x.dtype), jnp.asarray(end, x.dtype)
    sign, duration = jnp.sign(end - start), jnp.abs(end - start)

    def motion(elapsed: Any, x: Array, _: None) -> Array:
        return sign * drift(path, jnp.clip(start + sign * elapsed, 0, 1), x, sign * epsilon)

    def noise(elapsed: Any, x: Array, _: None) -> lineax.DiagonalLinearOperator:
        return lineax.DiagonalLinearOperator(jnp.full_like(x, jnp.sqrt(2 * epsilon)))

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    wiener = diffrax.VirtualBrownianTree(jnp.zeros_like(start), duration, duration / (2 * steps), shape, key)
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(motion), diffrax.ControlTerm(noise, wiener)),
        diffrax.Euler(),
        jnp.zeros_like(start),
        duration,
        duration / steps,
        x,
        max_steps=steps + 1,
    )
    return solution.ys[0]


def _scheme(solver: Any, steps: Any, rtol: Any, atol: Any, max_steps: Any) -> Scheme:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not is_traced(value):
            check_number(name, value, least=0, open_ends=True)
    return Scheme(solver, steps, rtol, atol, max_steps)


def _checked(path: AnyPath, x: Any, start: Any, end: Any) -> Array:
    x = points_of(path, x)
    for name, t in (("start", start), ("end", end)):
        check_times(as_floats(name, t, x.dtype), 1)
    return x

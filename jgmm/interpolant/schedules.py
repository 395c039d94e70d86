"""Schedules a_t, b_t and smoothings γ_t of x_t = b_t x_0 + a_t x_1 + γ_t z: t = 0 is the source, t = 1 the data.

The convention is that of stochastic interpolants (Albergo, Boffi and Vanden-Eijnden, arXiv 2303.08797), with
a_0 = b_1 = 0, a_1 = b_0 = 1, a rising and b falling. Derivatives are taken by automatic differentiation. A smoothing is
given by its square: γ_t γ̇_t is half the derivative of that, and finite where γ̇_t is not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.errors import check
from jgmm.numerics.pytree import pytree
from jgmm.registry import SCHEDULES, SMOOTHINGS

OfTime = Callable[[Array], Array]
# Where a user's functions are checked, and to which accuracy.
GRID, TOLERANCE = 513, 1e-5


@dataclass(frozen=True)
class Schedule:
    """x_t = b_t x_0 + a_t x_1.

    Attributes:
        a, b: functions of an array of times, element by element.
    Raises:
        InputError: Unless a_0 = b_1 = 0, a_1 = b_0 = 1, a rises and b falls.

    >>> ip.Schedule(a=lambda t: t**3, b=lambda t: 1 - t**3).a(0.5)
    0.125
    """

    a: OfTime
    b: OfTime

    def __post_init__(self) -> None:
        a, b = _values(self.a), _values(self.b)
        ends = {"a_0": (a[0], 0), "a_1": (a[-1], 1), "b_0": (b[0], 1), "b_1": (b[-1], 0)}
        for name, (value, expected) in ends.items():
            check(abs(value - expected) < TOLERANCE, f"a schedule needs {name} = {expected}, got {value:.6g}.")
        check((np.diff(a) > -TOLERANCE).all(), "a schedule needs a rising a_t; it falls somewhere in [0, 1].")
        check((np.diff(b) < TOLERANCE).all(), "a schedule needs a falling b_t; it rises somewhere in [0, 1].")


@cache
def linear() -> Schedule:
    """a = t, b = 1 − t: straight lines, the conditional path of flow matching (Lipman et al., arXiv 2210.02747).

    >>> ip.linear().b(0.25)
    0.75
    """
    return Schedule(_power, _power_left)


@cache
def trigonometric() -> Schedule:
    """a = sin(πt/2), b = cos(πt/2): a² + b² = 1 preserves the variance of independent ends.

    >>> round(float(ip.trigonometric().a(0.5)), 4)
    0.7071
    """
    return Schedule(_sine, _sine_left)


@cache
def cosine() -> Schedule:
    """a = sin²(πt/2), b = cos²(πt/2): straight lines that start and end at rest.

    >>> round(float(ip.cosine().a(0.5)), 4)
    0.5
    """
    return Schedule(_squared_sine, _squared_sine_left)


@cache
def polynomial(n: float = 2.0) -> Schedule:
    """a = tⁿ, b = 1 − tⁿ, n ≥ 1: straight lines that start at rest.

    >>> ip.polynomial(2.0).a(0.5)
    0.25
    """
    check(n >= 1, f"n must be at least 1, got {n}: with less the velocity is infinite at t = 0.")
    return Schedule(partial(_power, n=n), partial(_power_left, n=n))


# Functions with a name can be pickled, and with them the paths of a schedule.
def _power(t: Any, n: float = 1) -> Any:
    return t**n


def _power_left(t: Any, n: float = 1) -> Any:
    return 1 - t**n


def _sine(t: Any) -> Any:
    return jnp.sin(jnp.pi * t / 2)


def _sine_left(t: Any) -> Any:
    return _sine(1 - t)


def _squared_sine(t: Any) -> Any:
    return _sine(t) ** 2


def _squared_sine_left(t: Any) -> Any:
    return _sine_left(t) ** 2


def none(t: Array) -> Array:
    """γ = 0."""
    return jnp.zeros_like(t)


def brownian(t: Array) -> Array:
    """γ² = 2t(1 − t): a Brownian bridge."""
    return 2 * t * (1 - t)


def sine(t: Array) -> Array:
    """γ = sin²(πt), smooth at both ends; here γ²."""
    return jnp.sin(jnp.pi * t) ** 4


def as_schedule(schedule: str | Schedule) -> Schedule:
    """The schedule of that name in `jgmm.registry.SCHEDULES`, or of a function that makes one, or a schedule as it is.

    Raises:
        InputError: For anything else.
    """
    return schedule if isinstance(schedule, Schedule) else SCHEDULES.resolve(schedule)()


def as_smoothing(smoothing: str | OfTime) -> OfTime:
    """γ² of that name in `jgmm.registry.SMOOTHINGS`, or a function as it is.

    Raises:
        InputError: If γ² is negative, or not zero at both ends.
    """
    if isinstance(smoothing, str):
        return SMOOTHINGS[smoothing]
    check(callable(smoothing), f"smoothing must be a name or a function of t, got {smoothing!r}.")
    squares = _values(smoothing)
    check(max(abs(squares[0]), abs(squares[-1])) < TOLERANCE, "γ² must be zero at t = 0 and at t = 1.")
    check((squares > -TOLERANCE).all(), "γ² must not be negative; it is somewhere in [0, 1].")
    return smoothing


@pytree
class Coefficients:
    """A schedule and a smoothing at T times.

    Attributes:
        a, b, a_dot, b_dot: a_t, b_t and their derivatives.
        noise, noise_dot: γ_t² and γ_t γ̇_t.
    """

    a: Float[Array, " t"]
    b: Float[Array, " t"]
    a_dot: Float[Array, " t"]
    b_dot: Float[Array, " t"]
    noise: Float[Array, " t"]
    noise_dot: Float[Array, " t"]


def coefficients(schedule: Schedule, smoothing: OfTime, t: Float[Array, " t"]) -> Coefficients:
    """Their values and derivatives."""
    a, a_dot = derivative(schedule.a)(t)
    b, b_dot = derivative(schedule.b)(t)
    noise, twice = derivative(smoothing)(t)
    return Coefficients(a, b, a_dot, b_dot, noise, twice / 2)


def derivative(f: OfTime) -> Callable[[Array], tuple[Array, Array]]:
    """t -> f(t) and its derivative, element by element."""
    return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))


def _values(f: OfTime) -> np.ndarray:
    return np.asarray(f(jnp.linspace(0, 1, GRID)), np.float64)

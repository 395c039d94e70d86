"""Semidiscrete optimal transport: from a source to the images of a data set, each of which gets its share of it.

    max over g of   Σ_j b_j g_j + E_x min_j^ε [c(x, y_j) − g_j],      c(x, y) = |x − y|²

is the dual problem; min^ε is the soft minimum with weights b, and the minimum for ε = 0. Its gradient is b − E p(x),
with p(x) the softmax of (g − c(x, ·)) / ε + log b, or the argmax of g − c: what every image lacks of its share. It is
ascended stochastically (Genevay et al., Stochastic optimization for large-scale optimal transport, 2016), from the
potential between two Gaussians that have the moments of both sides, which is known in closed form. The potential then
couples every draw of the source to an image. How far the shares of the images are from b says

    χ² = Σ_j E[p_j]² / b_j − 1,

estimated without bias from pairs of draws, and in several groups the mean of theirs.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

# Draws a step, and steps a round, after which χ² is measured. A round begins with a smaller rate than the one before,
# in units of the deviation of the costs of one draw.
DRAWS, STEPS, RATE, SLOWER = 1024, 250, 0.02, 0.6
# The potential is averaged over the last steps, and good at this χ².
AVERAGE, GOOD = 0.99, 0.05
# Draws that χ² is measured with: at a time, and at most.
PART, MEASURED = 1024, 2**16
# Draws that the moments of the source are taken from, and the least for each code that they are trusted with.
FIRST, TRUSTED = 2**14, 4
# Images whose variance is a smaller share of their mean square are all the same.
FLAT = 1e-9


@runtime_checkable
class Transport(Protocol):
    """What is fitted: a pytree."""

    @property
    def codes(self) -> Float[Array, "j d"]:
        """Of the images, in the space of the cost."""

    @property
    def log_b(self) -> Float[Array, "g j"]:
        """The log-share of every image in every group; -inf for images that are not in it."""

    def draws(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """Codes of draws of the source, and their groups."""

    def shares(
        self, potential: Float[Array, "g j"], codes: Float[Array, "n d"], group: Int[Array, " n"]
    ) -> tuple[Float[Array, "g j"], Float[Array, "g j"]]:
        """What images get of draws, Σ_i p_ij, and Σ_i p_ij²."""


class Quality(NamedTuple):
    """How good a potential is after so many steps: χ², and the share of images that none of `draws` draws went to."""

    steps: int
    chi2: float
    unused: float
    draws: int


def fit_potential(
    key: PRNGKeyArray, transport: Transport, rounds: int, tell: Callable[[Quality], None]
) -> Float[Array, "g j"]:
    """The potential of each group; `tell` hears after every round how good it is. It is done when χ² is small, or after
    so many rounds."""
    for_start, for_steps, for_measure = jax.random.split(key, 3)
    first, unit = start(for_start, transport)
    optimizer = optax.inject_hyperparams(optax.amsgrad)(learning_rate=RATE * unit)
    potential, average, state = first, first, optimizer.init(first)

    @jax.jit
    def step(transport: Transport, potential: Array, average: Array, state: optax.OptState, i: Array) -> tuple:
        got, _ = transport.shares(potential, *transport.draws(jax.random.fold_in(for_steps, i), DRAWS))
        wanted = got.sum(axis=1, keepdims=True) * jnp.exp(transport.log_b)
        updates, state = optimizer.update(got - wanted, state, potential)
        potential = optax.apply_updates(potential, updates)
        kept = jnp.minimum(AVERAGE, (1 + i) / (10 + i))
        return potential, optax.incremental_update(potential, average, 1 - kept), state

    for n in range(rounds):
        state.hyperparams["learning_rate"] = jnp.asarray(RATE * unit * SLOWER**n)
        for i in range(n * STEPS, (n + 1) * STEPS):
            potential, average, state = step(transport, potential, average, state, jnp.asarray(i))
        found = quality(for_measure, transport, average, (n + 1) * STEPS)
        tell(found)
        if found.chi2 < GOOD:
            break
    return average


def start(key: PRNGKeyArray, transport: Transport) -> tuple[Float[Array, "g j"], float]:
    """The potential between Gaussians with the moments of the source and of the images, group by group:

        T(x) = m1 + M (x − m0),      g(y) = |y|² − 2 m0ᵀy − (y − m1)ᵀ M⁻¹ (y − m1)

    with M = S0^-½ (S0^½ S1 S0^½)^½ S0^-½; and the deviation of the costs of a draw.
    """
    codes, group = map(np.asarray, jax.jit(lambda t: t.draws(key, FIRST))(transport))
    y, b = np.asarray(transport.codes, np.float64), np.exp(np.asarray(transport.log_b, np.float64))
    size = (y**2).sum(axis=1)
    potentials = [size - _between(codes[group == g].astype(np.float64), y, b[g]) for g in range(len(b))]
    centered = [g - b_g @ g for g, b_g in zip(potentials, b, strict=True)]
    costs = size[None] - 2 * codes[:64] @ y.T
    return jnp.asarray(np.stack(centered), jnp.float32), float(costs.std(axis=1).mean())


def _between(x: np.ndarray, y: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|y|² − g(y), for one group."""
    m1 = b @ y
    m0 = x.mean(axis=0) if len(x) else m1
    away = y - m1
    if len(x) < TRUSTED * y.shape[1] or b @ (away**2).sum(axis=1) <= FLAT * (b @ (y**2).sum(axis=1)):
        return 2 * y @ m0 + (away**2).sum(axis=1)
    s0, s1 = np.cov(x.T).reshape(2 * y.shape[1:]), (away * b[:, None]).T @ away
    root = _power(s0, 0.5)
    inverse = root @ _power(root @ s1 @ root, -0.5) @ root  # M⁻¹
    return 2 * y @ m0 + np.einsum("jd,jd->j", away @ inverse, away)


def _power(a: np.ndarray, p: float) -> np.ndarray:
    """aᵖ of a positive matrix; directions without variance count as ones with next to none."""
    e, v = np.linalg.eigh(a)
    return (v * np.maximum(e, 1e-6 * e[-1]) ** p) @ v.T


def quality(key: PRNGKeyArray, transport: Transport, potential: Float[Array, "g j"], steps: int) -> Quality:
    """Measured with at least as many draws as there are images, up to a limit."""
    n = min(-(-transport.codes.shape[0] // PART), MEASURED // PART)
    total, squares = _counted(transport, potential, jax.random.split(key, n))
    total, squares = np.asarray(total, np.float64), np.asarray(squares, np.float64)
    b = np.exp(np.asarray(transport.log_b, np.float64))
    drawn = total.sum(axis=1)
    several = drawn > 1
    ratio = np.divide(total**2 - squares, b, out=np.zeros_like(b), where=b > 0).sum(axis=1)
    chi2 = ratio[several] / (drawn * (drawn - 1))[several] - 1
    unused = float((b * (total < 0.5)).sum(axis=1) @ (drawn / drawn.sum()))
    return Quality(steps, float(np.average(chi2, weights=drawn[several])), unused, n * PART)


@jax.jit
def _counted(transport: Transport, potential: Float[Array, "g j"], keys: Key[Array, " n"]) -> tuple[Array, Array]:
    def add(total: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(jnp.add, total, transport.shares(potential, *transport.draws(key, PART))), None

    nothing = jnp.zeros_like(potential)
    return jax.lax.scan(add, (nothing, nothing), keys)[0]

"""A velocity field learned by flow matching, to be held against the exact one.

The network is trained on draws alone: the least-squares regression of ẋ_t on (t, x_t) is the velocity (Lipman et al.,
Flow Matching for Generative Modeling, arXiv 2210.02747; Albergo, Boffi and Vanden-Eijnden, arXiv 2303.08797).
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.errors import check
from jgmm.interpolant import paths
from jgmm.interpolant.paths import Path
from jgmm.interpolant.schedules import none

FREQUENCIES = 4
# How slowly the average of the parameters forgets, once there are steps enough to average.
AVERAGE = 0.998


class Field(nnx.Module):
    """(t, x) -> u, a perceptron on x and cosines and sines of t."""

    def __init__(self, d: int, width: int, depth: int, *, rngs: nnx.Rngs):
        sizes = [d + 1 + 2 * FREQUENCIES, *[width] * depth, d]
        self.layers = nnx.List([nnx.Linear(m, n, rngs=rngs) for m, n in zip(sizes[:-1], sizes[1:], strict=True)])

    def __call__(self, t: Float[Array, " n"], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        angles = jnp.pi * t[:, None] * jnp.arange(1, FREQUENCIES + 1, dtype=x.dtype)[None]
        h = jnp.concatenate([x, t[:, None], jnp.cos(angles), jnp.sin(angles)], axis=1)
        for layer in self.layers[:-1]:
            h = nnx.silu(layer(h))
        return self.layers[-1](h)


def learn(
    key: PRNGKeyArray,
    path: Path,
    *,
    steps: int = 3000,
    batch_size: int = 2048,
    width: int = 128,
    depth: int = 3,
    learning_rate: float = 3e-3,
) -> Field:
    """A network trained to predict ẋ_t = ḃ_t x_0 + ȧ_t x_1 from t and x_t, t uniform on [0, 1], by Adam with a cosine
    schedule; its parameters are averaged over the last steps.

    Raises:
        InputError: For a path with smoothing, whose ẋ_t may have no second moment.
    """
    check(path.smoothing is none, "a field is learned from a path without smoothing.")
    for_network, for_data = jax.random.split(key)
    structure, parameters = nnx.split(Field(path.d, width, depth, rngs=nnx.Rngs(for_network)))
    return nnx.merge(structure, _train(for_data, path, structure, parameters, learning_rate, steps, batch_size))


@partial(jax.jit, static_argnames=("structure", "steps", "batch_size"))
def _train(
    key: PRNGKeyArray,
    path: Path,
    structure: nnx.GraphDef,
    parameters: nnx.State,
    learning_rate: Array,
    steps: int,
    batch_size: int,
) -> nnx.State:
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(parameters: nnx.State, key: PRNGKeyArray) -> Array:
        for_times, for_draws = jax.random.split(key)
        t = jax.random.uniform(for_times, (batch_size,), path.means0.dtype)
        x0, x1, x = paths.sample(for_draws, path, t, batch_size)
        c = paths.at(path, t)
        motion = c.b_dot[:, None] * x0 + c.a_dot[:, None] * x1
        return ((nnx.merge(structure, parameters)(t, x) - motion) ** 2).sum(axis=1).mean()

    def step(carry: tuple, leaf: tuple[Array, PRNGKeyArray]) -> tuple[tuple, None]:
        (parameters, average, state), (i, key) = carry, leaf
        updates, state = optimizer.update(jax.grad(loss)(parameters, key), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        forgotten = jnp.maximum(1 - AVERAGE, 9 / (10 + i))
        return (parameters, optax.incremental_update(parameters, average, forgotten), state), None

    carry = (parameters, parameters, optimizer.init(parameters))
    return jax.lax.scan(step, carry, (jnp.arange(steps), jax.random.split(key, steps)))[0][1]


def relative_error(
    key: PRNGKeyArray, path: Path, field: Field, t: Float[Array, " t"], n: int = 10_000
) -> Float[Array, " t"]:
    """√(E|v − u|² / E|u|²) over x ~ p_t at every time, for a learned field v and the exact u."""

    def at(leaf: tuple[Array, Array]) -> Array:
        key, time = leaf
        _, _, x = paths.sample(key, path, time, n)
        u = paths.velocity(path, time, x)
        v = field(jnp.full(n, time), x)
        return jnp.sqrt(((v - u) ** 2).sum() / (u**2).sum())

    return jax.lax.map(at, (jax.random.split(key, t.shape[0]), t))

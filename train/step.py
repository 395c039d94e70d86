"""One step of training: flow matching (Lipman et al., arXiv 2210.02747).

x_t = (1 − t) x0 + t x1,      loss = E |v(t, x_t) − (x1 − x0)|², a mean over all values
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.numerics.pytree import pytree
from train.batches import Data, keys_of
from train.config import Config
from train.couplings.base import Coupling, inside

# Streams of random numbers besides those of the steps, folded into the seed.
INITIALIZATION_STREAM, GRID_STREAM = 2**31 - 1, 2**31 - 2


@pytree
class State:
    """All that training changes.

    Attributes:
        step: how many steps were made.
        parameters: of the network, and their running average.
        optimizer: its state.
        failed: the first step whose loss or gradient was not finite, or -1.
        memory: of the coupling.
    """

    step: Int[Array, ""]
    parameters: nnx.State
    average: nnx.State
    optimizer: Any
    failed: Int[Array, ""]
    memory: Any = ()


class StepInputs(NamedTuple):
    """All that training reads: the data, on the device, and which x0 goes with them."""

    data: Data
    coupling: Coupling


def optimizer_of(config: Config) -> optax.GradientTransformation:
    """Adam with a linear warm-up, then constant, of clipped gradients."""
    peak = config.learning_rate
    rate = optax.linear_schedule(0.0, peak, config.warmup) if config.warmup else optax.constant_schedule(peak)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate))


def begin(config: Config, parameters: nnx.State, memory: Any = ()) -> State:
    """The state before the first step."""
    zero, average = jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, parameters)
    return State(zero, parameters, average, optimizer_of(config).init(parameters), zero - 1, memory)


def draw_times(key: PRNGKeyArray, n: int, kind: str) -> Float[Array, " n"]:
    """t uniform on [0, 1], or the logistic function of a standard normal number."""
    if kind == "logit-normal":
        return jax.nn.sigmoid(jax.random.normal(key, (n,)))
    return jax.random.uniform(key, (n,))


def flow_matching_loss(
    model: Callable[..., Array],
    t: Float[Array, " b"],
    x0: Float[Array, "b h w c"],
    x1: Float[Array, "b h w c"],
    labels: Int[Array, " b"] | None,
    key: PRNGKeyArray | None,
) -> Float[Array, ""]:
    """The loss above, of a batch."""
    wide = t[:, None, None, None]
    v = model(t, (1 - wide) * x0 + wide * x1, labels, key=key)
    return ((v - (x1 - x0)) ** 2).mean()


def make_cost(config: Config) -> Callable[[StepInputs, Any, Int[Array, ""], Int[Array, " b"]], Float[Array, "b b"]]:
    """(inputs, memory, step, index) -> what an assignment of the step's draws to its images costs.

    For a conditional flow the draws have the labels of the images in turn, and keep them, so that x0 of the images of
    one label has the law of the source (Cheng and Schwing, The curse of conditions, arXiv 2503.10636).
    """

    def cost(inputs: StepInputs, memory: Any, step: Int[Array, ""], index: Int[Array, " b"]) -> Float[Array, "b b"]:
        found = inputs.coupling.cost(keys_of(config.seed, step), inputs.data, index, memory)
        labels = inputs.data.labels
        return found if labels is None else inside(labels[index], found)

    return cost


def make_step(
    config: Config, structure: nnx.GraphDef
) -> Callable[[State, StepInputs, Int[Array, " b"], Int[Array, " b"] | None], tuple[State, dict[str, Array]]]:
    """(state, inputs, index, order) -> the next state, and what to log of this step."""
    optimizer = optimizer_of(config)

    def step(
        state: State, inputs: StepInputs, index: Int[Array, " b"], order: Int[Array, " b"] | None
    ) -> tuple[State, dict[str, Array]]:
        keys = keys_of(config.seed, state.step)
        x0, batch, memory = inputs.coupling.pairs(keys, inputs.data, index, order, state.memory)
        t = draw_times(keys.times, index.shape[0], config.times)
        labels = _withheld(keys.labels, batch.labels, config)

        def loss(parameters: nnx.State, part: tuple, key: PRNGKeyArray) -> Array:
            t, x0, x1, labels = part
            dropout = key if config.dropout > 0 else None
            return flow_matching_loss(nnx.merge(structure, parameters), t, x0, x1, labels, dropout)

        parts = jax.tree.map(lambda a: _cut(a, config.accumulate), (t, x0, batch.images, labels))
        value, gradient = _accumulated(loss, state.parameters, parts, keys.dropout, config.accumulate)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        decay = _decay(state.step, config)
        average = optax.incremental_update(parameters, state.average, 1 - decay)
        norm = optax.global_norm(gradient)
        broken = (state.failed < 0) & ~(jnp.isfinite(value) & jnp.isfinite(norm))
        failed = jnp.where(broken, state.step + 1, state.failed)
        seen = {"loss": value, "gradient_norm": norm, "ema": decay}
        return State(state.step + 1, parameters, average, optimizer_state, failed, memory), seen

    return step


def unrolled(step: Callable[..., tuple[State, dict[str, Array]]]) -> Callable[..., tuple[State, dict[str, Array]]]:
    """Several steps, one after the other: (state, inputs, indices [n, b], None) -> the state after them, and what to
    log of each."""

    def steps(
        state: State, inputs: StepInputs, index: Int[Array, "n b"], order: None
    ) -> tuple[State, dict[str, Array]]:
        return jax.lax.scan(lambda state, index: step(state, inputs, index, None), state, index)

    return steps


def _accumulated(
    loss: Callable[..., Array], parameters: nnx.State, parts: Any, key: PRNGKeyArray, n: int
) -> tuple[Array, nnx.State]:
    """The mean loss of the parts and its gradient."""
    both = jax.value_and_grad(loss)
    if n == 1:
        return both(parameters, jax.tree.map(lambda a: a[0], parts), key)

    def add(total: Any, leaf: tuple[Any, PRNGKeyArray]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, both(parameters, *leaf)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
    total, _ = jax.lax.scan(add, zero, (parts, jax.random.split(key, n)))
    return jax.tree.map(lambda a: a / n, total)


def _cut(a: Array, n: int) -> Array:
    """In n parts, each with rows from everywhere, so that the devices share every part."""
    return a.reshape(-1, n, *a.shape[1:]).swapaxes(0, 1)


def _withheld(key: PRNGKeyArray, labels: Array | None, config: Config) -> Array | None:
    """The labels, some of them replaced by the label that is none."""
    if labels is None:
        return None
    hidden = jax.random.bernoulli(key, config.label_dropout, labels.shape)
    return jnp.where(hidden, -1, labels)


def _decay(step: Int[Array, ""], config: Config) -> Array:
    decay = jnp.asarray(config.ema, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step)) if config.ema_warmup else decay

"""Whether a small convolutional network can tell two sets of images apart: a classifier two-sample test (Lopez-Paz and
Oquab, arXiv 1610.06545)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from jgmm.errors import check
from jgmm.numerics.devices import convolution_options
from train.batches import indices

CHANNELS, STEPS, BATCH, RATE, DECAY = (32, 64, 128), 600, 128, 1e-3, 1e-2
# Of each kind; half of them train the network.
LEAST = 4 * BATCH


class Judge(nnx.Module):
    """Two convolutions a level, the first of stride 2, and means and mean squares over what is left of the image."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        sizes = zip((channels, *CHANNELS), CHANNELS, strict=False)
        pairs = [(nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs), nnx.Conv(b, b, (3, 3), rngs=rngs)) for a, b in sizes]
        self.layers = nnx.List([layer for pair in pairs for layer in pair])
        self.last = nnx.Linear(2 * CHANNELS[-1], 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        moments = jnp.concatenate([x.mean(axis=(1, 2)), (x * x).mean(axis=(1, 2))], axis=1)
        return self.last(moments)[:, 0]


def auc(a: Float[np.ndarray, "n h w c"], b: Float[np.ndarray, "n h w c"], seed: int = 0) -> float:
    """The area under the ROC curve of a network that has seen the first half of both and is asked about the second: 0.5
    where it cannot tell them apart, 1 where it always can.

    Raises:
        InputError: For too few images, and different numbers of them.
    """
    from sklearn.metrics import roc_auc_score

    check(len(a) == len(b), f"the classifier needs as many images of both kinds, got {len(a)} and {len(b)}.")
    check(len(a) >= LEAST, f"the classifier needs at least {LEAST} images of each kind, got {len(a)}.")
    half = len(a) // 2
    both = np.concatenate([a[:half], b[:half]])
    middle, spread = both.mean(), both.std()
    structure, parameters = nnx.split(Judge(a.shape[3], nnx.Rngs(seed)))
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=DECAY)

    def logits(parameters: nnx.State, x: Array) -> Array:
        return nnx.merge(structure, parameters)((x - middle) / spread)

    def step(parameters: nnx.State, state: optax.OptState, x: Array, labels: Array) -> tuple:
        def loss(parameters: nnx.State) -> Array:
            return optax.sigmoid_binary_cross_entropy(logits(parameters, x), labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)
        return optax.apply_updates(parameters, updates), state

    advance = jax.jit(step, compiler_options=convolution_options())
    state, labels = optimizer.init(parameters), np.repeat([1.0, 0.0], half).astype(np.float32)
    for i in range(STEPS):
        rows = indices(seed, i, 2 * half, BATCH)
        parameters, state = advance(parameters, state, jnp.asarray(both[rows]), jnp.asarray(labels[rows]))
    asked = np.concatenate([a[half:], b[half:]])
    told = _in_parts(jax.jit(logits, compiler_options=convolution_options()), parameters, asked)
    return float(roc_auc_score(np.repeat([1, 0], len(a) - half), told))


def _in_parts(logits: "jax.stages.Wrapped", parameters: nnx.State, x: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(x), BATCH):
        part = x[start : start + BATCH]
        padded = np.pad(part, ((0, BATCH - len(part)), (0, 0), (0, 0), (0, 0)))
        found.append(np.asarray(logits(parameters, jnp.asarray(padded)))[: len(part)])
    return np.concatenate(found)

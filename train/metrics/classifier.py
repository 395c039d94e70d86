"""Whether a small convolutional network can tell two sets of images apart: a classifier two-sample test (Lopez-Paz and
Oquab, arXiv 1610.06545)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from scipy.ndimage import uniform_filter

from jgmm.errors import check
from jgmm.numerics.devices import jit_convolutions
from train.batches import in_parts, indices

CHANNELS, STEPS, BATCH, RATE, DECAY = (32, 64, 128), 400, 128, 3e-3, 1e-2
OPTIMIZER = optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=DECAY)
# Of each kind; half of them train the network.
LEAST = 4 * BATCH
# Deviations of a channel below this, of pixels in [-1, 1], are none.
LEAST_SPREAD = 1e-6


class Judge(nnx.Module):
    """Two convolutions a level, the second of stride 2; the means and mean squares over the image of what each of them
    finds tell the kinds apart."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        sizes = zip((channels, *CHANNELS), CHANNELS, strict=False)
        pairs = [(nnx.Conv(a, b, (3, 3), rngs=rngs), nnx.Conv(b, b, (3, 3), strides=2, rngs=rngs)) for a, b in sizes]
        self.layers = nnx.List([layer for pair in pairs for layer in pair])
        self.last = nnx.Linear(4 * sum(CHANNELS), 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        moments = []
        for layer in self.layers:
            x = nnx.relu(layer(x))
            moments += [x.mean(axis=(1, 2)), (x * x).mean(axis=(1, 2))]
        return self.last(jnp.concatenate(moments, axis=1))[:, 0]


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
    seen, asked = (_channels(np.concatenate(parts)) for parts in ([a[:half], b[:half]], [a[half:], b[half:]]))
    middle, spread = seen.mean(axis=(0, 1, 2)), np.maximum(seen.std(axis=(0, 1, 2)), LEAST_SPREAD)
    seen, asked = (seen - middle) / spread, (asked - middle) / spread
    structure, parameters = nnx.split(Judge(seen.shape[3], nnx.Rngs(seed)))
    state, labels = OPTIMIZER.init(parameters), np.repeat([1.0, 0.0], half).astype(np.float32)
    advance, logits = jit_convolutions(_step, "structure"), jit_convolutions(_logits, "structure")
    for i in range(STEPS):
        rows = indices(seed, i, 2 * half, BATCH)
        parameters, state = advance(structure, parameters, state, jnp.asarray(seen[rows]), jnp.asarray(labels[rows]))
    told = in_parts(lambda part, _: logits(structure, parameters, part), asked, BATCH)
    return float(roc_auc_score(np.repeat([1, 0], len(a) - half), told))


def _channels(x: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w 3*c"]:
    """Images, what each pixel has more than the mean of the 3 x 3 around it, and the same of that: noise and blur are a
    small part of the variance of an image, and most of that of the others."""
    around = (1, 3, 3, 1)
    fine = x - uniform_filter(x, around)
    return np.concatenate([x, fine, fine - uniform_filter(fine, around)], axis=3)


def _logits(structure: nnx.GraphDef, parameters: nnx.State, x: Array) -> Float[Array, " b"]:
    return nnx.merge(structure, parameters)(x)


def _step(
    structure: nnx.GraphDef, parameters: nnx.State, state: optax.OptState, x: Array, labels: Float[Array, " b"]
) -> tuple[nnx.State, optax.OptState]:
    def loss(parameters: nnx.State) -> Array:
        return optax.sigmoid_binary_cross_entropy(_logits(structure, parameters, x), labels).mean()

    updates, state = OPTIMIZER.update(jax.grad(loss)(parameters), state, parameters)
    return optax.apply_updates(parameters, updates), state

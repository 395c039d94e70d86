"""How easily a small convolutional network tells draws from images: python benchmarks/judge.py --data-dir DIR

The network sees 4,000 images held out of the fits and as many draws, and is asked about 1,000 others of both: the area
under its ROC curve is 0.5 where it cannot tell them apart, and 1 where it always can. Training images stand for what is
possible. Prints a line a source.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fits import fit
from flax import nnx
from sklearn.metrics import roc_auc_score

import jgmm
from jgmm.commands.inputs import prepare
from jgmm.commands.options import Options
from jgmm.data import rescale

SOURCES = {
    "one Gaussian": ["--k", "1"],
    "mixture": ["--k", "100"],
    "product": ["--k", "50", "--blocks", "4"],
    "product with classes": ["--k", "50", "--blocks", "4", "--classes", "32", "32"],
}
JUDGED, BATCH, EPOCHS = 1000, 100, 10
CHANNELS = (32, 64, 128)


class Judge(nnx.Module):
    """Three convolutions of stride 2, and the mean over what is left of the image."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = zip((3, *CHANNELS), CHANNELS, strict=False)
        self.layers = nnx.List([nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in sizes])
        self.last = nnx.Linear(CHANNELS[-1], 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.last(x.mean(axis=(1, 2)))[:, 0]


@nnx.jit
def step(judge: Judge, optimizer: nnx.Optimizer, x: jax.Array, real: jax.Array) -> None:
    """One step of Adam on the cross-entropy."""

    def loss(judge: Judge) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(judge(x), real).mean()

    optimizer.update(judge, nnx.grad(loss)(judge))


def area(images: np.ndarray, draws: np.ndarray) -> float:
    """The area under the ROC curve of a network trained on all but the last of both."""
    rng, judge = np.random.default_rng(0), Judge(nnx.Rngs(0))
    optimizer = nnx.Optimizer(judge, optax.adam(1e-3), wrt=nnx.Param)
    x = np.concatenate([images[:-JUDGED], draws[:-JUDGED]])
    real = np.repeat([1.0, 0.0], len(x) // 2).astype(np.float32)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for rows in order[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
            flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
            step(judge, optimizer, jnp.asarray(x[rows][:, :, flip]), jnp.asarray(real[rows]))
    seen = np.concatenate([images[-JUDGED:], draws[-JUDGED:]])
    return float(roc_auc_score(np.repeat([1, 0], JUDGED), np.asarray(judge(jnp.asarray(seen)))))


def main() -> None:
    """Fit every source, draw from it, and ask the judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    print("| source | area under the ROC curve |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, options) in enumerate(SOURCES.items()):
            run = Path(folder) / str(i)
            config = fit(run, options, data_dir)
            data = prepare(Options.from_json(config["options"]), 1)
            images, source = rescale(data.held_out.pixels), jgmm.load(run)
            # Draws are given the 8 bits and the range of images.
            pixels = np.asarray(source.to_pixels(source.sample(jax.random.key(1), len(images))))
            draws = rescale(np.clip(np.round(127.5 * (pixels + 1)), 0, 255).astype(np.uint8))
            print(f"| {name} | {area(images, draws):.4f} |", flush=True)
        train = rescale(data.train.pixels[: len(images)])
        print(f"| training images | {area(images, train):.4f} |")


if __name__ == "__main__":
    main()

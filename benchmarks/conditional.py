"""Conditional mixtures beside zuko's: the same densities, and how fast each is trained.

python benchmarks/conditional.py --data-dir DIR [--peers .venv-bench/bin/python]

DIR holds CIFAR-10. The context is the first 16 principal codes of an image, the features are the next 8; both
libraries train the same network with Adam on the same rows in batches of the same size, one after the other, zuko in
its own process. The first epoch, which compiles, is left out of the speed.
"""

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from cifar_codes import codes, load_pixels
from flax import nnx
from zuko_layout import parameters, shapes

from jgmm.conditional import ConditionalGMM, from_vector
from jgmm.covariance.base import identity_of
from jgmm.gradient import fit_gradient
from jgmm.mixture import over_batch

NAMES = {"full": "full", "diagonal": "diag", "spherical": "spherical"}


@dataclass(frozen=True)
class Options:
    """Compare conditional mixtures with zuko's."""

    data_dir: Path | None = None
    """Folder with CIFAR-10."""
    peers: Path = Path(".venv-bench/bin/python")
    """The Python that has zuko."""
    epochs: int = 6
    """Epochs of every training."""
    batch_sizes: tuple[int, ...] = (256, 4096)
    """Rows a step."""
    components: int = 5
    """Of every mixture."""


def by_zuko(options: Options, **given: Any) -> Any:
    """What zuko answers."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", **given)
        script = Path(__file__).parent / "by_zuko.py"
        subprocess.run([str(options.peers), str(script), f"{folder}/in.npz", f"{folder}/out.npz"], check=True)
        return dict(np.load(f"{folder}/out.npz"))


def to_ours(vector: np.ndarray, k: int, d: int, kind: str, tied: bool) -> np.ndarray:
    """zuko keeps all scales before all entries below the diagonals; jgmm keeps them together, a covariance a row."""
    sizes = [int(np.prod(shape)) for shape in shapes(k, d, kind, tied)]
    logits, means, *scales = np.split(vector, np.cumsum(sizes)[:-1], axis=-1)
    rows = 1 if tied else k
    raw = np.concatenate([part.reshape(*part.shape[:-1], rows, -1) for part in scales], axis=-1)
    return np.concatenate([logits, means, raw.reshape(*raw.shape[:-2], -1)], axis=-1)


def compare_densities(options: Options) -> None:
    """The largest difference of log-densities, over every type and batch shape."""
    rng, (k, d) = np.random.default_rng(0), (4, 3)
    print("| covariances | tied | batch shape | largest difference of log p, nats | relative |\n|---|---|---|---|---|")
    for batch in ((), (4,)):
        given = parameters(rng, k, d, batch)
        points = rng.normal(size=(50, *batch, d)).astype(np.float32)
        theirs = by_zuko(options, points=points, k=k, d=d, **given)
        for name, vector in given.items():
            kind, tied, _ = name.split("-")
            family = ("tied-" if tied == "True" else "") + NAMES[kind]
            _, make = from_vector(k, d, identity_of(family)(k, d), 1e-6)
            ours = over_batch(make, len(batch))(jnp.asarray(to_ours(vector, k, d, kind, tied == "True")))
            off = np.abs(np.asarray(ours.log_prob(jnp.asarray(points))) - theirs[name])
            relative = (off / np.abs(theirs[name])).max()
            print(f"| {kind} | {tied} | {batch} | {off.max():.1e} | {relative:.1e} |")


def compare_speed(options: Options, context: np.ndarray, x: np.ndarray) -> None:
    """Samples a second of training, and the log-likelihood after the last epoch."""
    print("\n| covariances | batch | samples a second, jgmm / zuko | log-likelihood, jgmm | zuko |")
    print("|---|---|---|---|---|")
    for kind in NAMES:
        for size in options.batch_sizes:
            case = {"kind": kind, "components": options.components, "hidden": [64, 64], "batch_size": size}
            case |= {"learning_rate": 1e-3, "epochs": options.epochs}
            theirs = by_zuko(options, case=json.dumps(case), context=context, x=x)
            seconds, means = train(case, context, x)
            ratio = np.median(theirs["seconds"][1:]) / seconds
            print(f"| {kind} | {size} | {ratio:.1f} | {means:.4f} | {theirs['means'][-1]:.4f} |", flush=True)


def train(case: dict[str, Any], context: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Seconds an epoch without the first, and the mean log-likelihood of the last."""
    model = ConditionalGMM(
        x.shape[1], context.shape[1], case["components"], case["kind"], hidden_features=case["hidden"], rngs=nnx.Rngs(0)
    )
    model.initialize(jax.random.key(0), jnp.asarray(x))
    optimizer = optax.adam(case["learning_rate"])

    def fit(epochs: int) -> tuple[float, float]:
        begun = time.perf_counter()
        found = fit_gradient(
            jax.random.key(0),
            model,
            jnp.asarray(x),
            jnp.asarray(context),
            optimizer=optimizer,
            batch_size=case["batch_size"],
            epochs=epochs,
            holdout=0.0,
        )
        return time.perf_counter() - begun, found.log_likelihoods[-1]

    first, _ = fit(1)  # compiles
    first, _ = fit(1)
    whole, mean = fit(case["epochs"])
    return (whole - first) / (case["epochs"] - 1), mean


def main(options: Options) -> None:
    """Print both tables."""
    compare_densities(options)
    z, _ = codes(load_pixels(options.data_dir)[1], 24)
    compare_speed(options, z[:, :16], z[:, 16:24])


if __name__ == "__main__":
    main(tyro.cli(Options))

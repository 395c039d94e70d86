"""Bits per dimension against seconds: the default fit, the same on principal axes from k-means, and scikit-learn.

    python benchmarks/race.py --data-dir DIR --out docs/race.jpg      # DIR holds CIFAR-10; about ten minutes

45,000 images of CIFAR-10, K=100, diagonal covariances. The clock of jgmm starts before the PCA and includes clusters
and compiling, with an empty cache. scikit-learn gets the codes and the start of each of the two and does its own
iterations in float32; its clock starts with the seconds that jgmm has taken so far. Likelihoods are those of training
images with uniform noise, before every iteration; jgmm goes on until the objective changes by less than 1e-3 nats,
scikit-learn for 60 iterations.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from contestants import scikit_learn
from em import describe, machine

from jgmm.commands.codes import Codes, em_options, fit_encoder, to_codes
from jgmm.commands.inputs import prepare
from jgmm.commands.options import Options
from jgmm.em.loop import EMState, run_em
from jgmm.figures.style import COLORS, styled
from jgmm.metrics.likelihood import to_bits

ON_PRINCIPAL_AXES = {"basis": "pca", "init": "kmeans", "prior_strength": 0.0, "min_count": 0.0}
# Iterations that scikit-learn makes.
THEIRS = 60

# Seconds, and bits per dimension of the training images at them.
Curve = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Run all four, print where each is after some time, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("race.jpg"))
    given = parser.parse_args()
    print(describe(machine()))
    curves: dict[str, Curve] = {}
    for name, changed in (("jgmm, default", {}), ("jgmm on principal axes", ON_PRINCIPAL_AXES)):
        options = Options(data_dir=given.data_dir, holdout=0.1, tol=1e-3, **changed)
        curves[name], codes, first = by_jgmm(options)
        curves[f"scikit-learn from the start of {name}"] = by_scikit_learn(codes, first, curves[name][0][0])
    for name, (seconds, bits) in curves.items():
        print(f"{name}: {bits[0]:.4f} bits/dim at {seconds[0]:.0f} s, {bits[-1]:.4f} at {seconds[-1]:.0f} s")
    draw(given.out, curves)


def by_jgmm(options: Options) -> tuple[Curve, Codes, EMState]:
    """The whole road from pixels; the codes, and the state from which EM starts."""
    data = prepare(options, options.k)
    begun, states, ticks = time.perf_counter(), [], []
    codes = to_codes(options, data.train, *fit_encoder(options, data.train))

    def follow(state: EMState) -> None:
        ticks.append(time.perf_counter() - begun)
        states.append(state)

    key = jax.random.key(options.seed)
    asked = em_options(options, codes, codes.values)
    run_em(key, codes.values, k=options.k, covariance_type="diag", **asked, callback=follow)
    # The likelihood of a state is that of the mixture before its last iteration.
    bits = [to_bits(value + codes.offset, data.train.shape) for value in states[-1].log_likelihoods]
    return (np.array(ticks[:-1]), np.array(bits)), codes, states[0]


def by_scikit_learn(codes: Codes, first: EMState, begun: float) -> Curve:
    """Iterations from the same start, in float32."""
    x, gmm = np.array(codes.values), first.gmm
    start = (np.exp(gmm.log_weights), gmm.means, gmm.covariance.variance())
    history: list[float] = []
    seconds, _, _ = scikit_learn(x, tuple(np.asarray(p, np.float64) for p in start), THEIRS, 1e-6, history.append)
    # After the last iteration it looks once more.
    bits = [to_bits(value + codes.offset, (x.shape[1],)) for value in history[: len(seconds)]]
    return begun + np.concatenate([[0.0], np.cumsum(seconds)[:-1]]), np.array(bits)


@styled
def draw(path: Path, curves: dict[str, Curve]) -> None:
    """All curves in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    for i, (name, (seconds, bits)) in enumerate(curves.items()):
        style = "--" if name.startswith("scikit-learn") else "-"
        axes.plot(seconds, bits, style, marker=".", ms=4, lw=1.2, color=COLORS[i // 2], label=name)
    axes.set(xlabel="seconds, from pixels", ylabel="bits per dimension, training images")
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()

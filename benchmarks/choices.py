"""The evidence behind the defaults of `python -m jgmm.fit`: one choice changed at a time, judged by held-out images.

    python benchmarks/choices.py --data-dir DIR      # DIR holds CIFAR-10; about a minute a line at K=100 on two cores

Prints the table of docs/choices.md, a line a fit: bits per dimension of training and held-out images, the smallest
component, how many components are the likeliest of at least 0.05% of the held-out images, draws nearer to a training
image than every held-out image (of 5,000), iterations, and the seconds of the whole command.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from fits import fit

import jgmm
from jgmm.commands.inputs import prepare
from jgmm.commands.options import Options
from jgmm.metrics.likelihood import scores
from jgmm.metrics.memorization import memorization

BEFORE = "--scatter sample --no-symmetric --basis pca --init kmeans --prior-strength 0 --no-dequantize --min-count 0"
# K, and what differs from the defaults.
FITS = (
    (100, ""),
    (100, BEFORE),
    (100, "--scatter sample --no-symmetric"),
    (100, "--scatter sample"),
    (100, "--no-symmetric"),
    (100, "--basis pca"),
    (100, "--basis zca"),
    (100, "--basis learned"),
    (100, "--init kmeans"),
    (100, "--prior-strength 0"),
    (100, "--no-dequantize"),
    (10, ""),
    (400, ""),
    (400, "--prior-strength 0"),
    (1000, ""),
)
# The least share of held-out images that a component should be the likeliest of.
SHARE = 0.0005


def main() -> None:
    """Run every fit and print its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    print("| K | changed | bits/dim train | held out | smallest | explain | copies | iterations | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for i, (k, changed) in enumerate(FITS):
            print(line(Path(folder) / str(i), k, changed, data_dir), flush=True)


def line(run: Path, k: int, changed: str, data_dir: Path) -> str:
    """Fit, and say how it went."""
    begun = time.perf_counter()
    config = fit(run, ["--k", str(k), *changed.split()], data_dir)
    seconds = time.perf_counter() - begun
    with contextlib.redirect_stdout(sys.stderr):
        source, data = jgmm.load(run), prepare(Options.from_json(config["options"]), k)
    likeliest = scores(source, data.held_out.pixels).responsibilities.argmax(axis=1)
    explained = np.bincount(likeliest, minlength=k) >= SHARE * len(likeliest)
    copies = memorization(jax.random.key(0), source, data.train.pixels, data.held_out.pixels).copies
    found = config["summary"]
    cells = (
        k,
        f"`{changed}`" if changed else "",
        f"{found['bits_per_dim_train']:.4f}",
        f"{found['bits_per_dim_held_out']:.4f}",
        f"{found['smallest_component']:.0f}",
        f"{explained.sum()} of {k}",
        copies,
        found["iterations"],
        f"{seconds:.0f}",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()

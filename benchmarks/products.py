"""Products of block mixtures on CIFAR-10: what each part of them is worth on held-out images, and what they cost.

    python benchmarks/products.py --data-dir DIR      # DIR holds CIFAR-10; one to four minutes a line on two cores

Prints the tables of docs/products.md: bits per dimension of training and held-out images, and the seconds and the peak
memory of the whole command; then what draws and exact velocities cost, and those of the plain mixture of 100 components
beside them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from fits import fit

import jgmm
from jgmm import interpolant as ip
from jgmm.mixture import GMM

# K, and the other options.
FITS = (
    (100, ""),
    (50, "--blocks 16 --covariance-type diag"),
    (50, "--blocks 8 --covariance-type diag"),
    (50, "--blocks 4 --covariance-type diag"),
    (50, "--blocks 2 --covariance-type diag"),
    (50, "--blocks 8"),
    (50, "--blocks 4"),
    (50, "--blocks 2"),
    (50, "--blocks 4 --classes 32"),
    (50, "--blocks 4 --classes 32 32"),
    (50, "--blocks 4 --classes 32 32 32"),
    (50, "--blocks 4 --classes 32 32 --prior-strength 0"),
    (50, "--blocks 4 --classes 32 32 --scatter sample --no-symmetric"),
    (20, "--blocks 4 --classes 32 32"),
    (100, "--blocks 4 --classes 32 32"),
    (200, "--blocks 4 --classes 32 32"),
    (30, "--blocks 2 --classes 32 32 32 32"),
    (50, "--blocks 4 --classes 32 32 --scales 3"),
    (100, "--blocks 4 --classes 32 32 --scales 3"),
)
TIMED = (0, 9, 17)
DRAWS, POINTS = 4096, 512


def main() -> None:
    """Run every fit and print its line, and then the costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    print("| K | options | bits/dim train | held out | seconds | GiB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for i, (k, options) in enumerate(FITS):
            print(line(Path(folder) / str(i), k, options, data_dir), flush=True)
        print("\n| source | draws a second | milliseconds for 512 velocities |\n|---|---|---|")
        for i in TIMED:
            print(costs(Path(folder) / str(i), *FITS[i]), flush=True)


def line(run: Path, k: int, options: str, data_dir: Path) -> str:
    """Fit, and say how it went."""
    found = fit(run, ["--k", str(k), *options.split()], data_dir)["summary"]
    bits = [f"{found[f'bits_per_dim_{part}']:.4f}" for part in ("train", "held_out")]
    cells = (k, f"`{options}`" if options else "", *bits, f"{found['command_seconds']:.0f}")
    return "| " + " | ".join(map(str, (*cells, f"{found['peak_memory_gib']:.1f}"))) + " |"


def costs(run: Path, k: int, options: str) -> str:
    """How long draws and velocities take."""
    source = jgmm.load(run)
    d, key = source.gmm.d, jax.random.key(0)
    normal = GMM.from_parameters(jnp.ones(1), jnp.zeros((1, d)), jnp.ones((1, d)), "diag")
    path = ip.path(ip.couple(normal, source.gmm))
    x = source.gmm.sample(key, POINTS)
    draws = DRAWS / seconds(lambda: source.sample(key, DRAWS))
    moving = 1000 * seconds(lambda: ip.velocity(path, 0.5, 0.5 * x))
    return f"| K={k} `{options}` | {draws:,.0f} | {moving:,.0f} |"


def seconds(f: Callable[[], Any], times: int = 5) -> float:
    """The least of a few runs, after one that compiles."""
    jax.block_until_ready(f())
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        jax.block_until_ready(f())
        taken.append(time.perf_counter() - begun)
    return min(taken)


if __name__ == "__main__":
    main()

"""How the cost of an EM iteration grows with N, K and D: python benchmarks/scaling.py --data-dir DIR.

Fits of full and of diagonal covariances to principal codes of CIFAR-10, one of N, K, D changed at a time; the median of
the last iterations, as a ratio to the largest fit, and the exponent between neighbors.
"""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cifar_codes import codes, load_pixels

from jgmm.em.loop import run_em


@dataclass(frozen=True)
class Options:
    data_dir: Path | None = None
    """Folder with CIFAR-10; without it the embedded photographs stand in."""
    families: tuple[str, ...] = ("full", "diag")
    n: tuple[int, ...] = (50_000, 25_000, 12_500)
    k: tuple[int, ...] = (100, 50, 25)
    d: tuple[int, ...] = (300, 150, 75)
    iterations: int = 10
    last: int = 4


def main(options: Options) -> None:
    name, pixels = load_pixels(options.data_dir)
    z, metric = codes(pixels, options.d[0])

    def seconds(family: str, n: int, k: int, d: int) -> float:
        ticks: list[float] = []
        run_em(
            jax.random.key(0),
            jnp.asarray(z[:n, :d]),
            k=k,
            covariance_type=family,
            metric=jnp.asarray(metric[:d]),
            max_iter=options.iterations,
            tol=0.0,
            callback=lambda state: ticks.append(time.perf_counter()),
        )
        return float(np.median(np.diff(ticks)[-options.last :]))

    print(f"{name}, {jax.default_backend()}: {jax.devices()[0].device_kind}\n")
    print("| covariances | N | K | D | time of an iteration | exponent |\n|---|---|---|---|---|---|")
    for family in options.families:
        largest = (options.n[0], options.k[0], options.d[0])
        base = seconds(family, *largest)
        print(f"| {family} | {largest[0]:,} | {largest[1]} | {largest[2]} | 1 | |", flush=True)
        for axis, values in enumerate((options.n, options.k, options.d)):
            time_before = base
            for before, value in itertools.pairwise(values):
                size = [*largest]
                size[axis] = value
                now = seconds(family, *size)
                exponent = np.log(time_before / now) / np.log(before / value)
                print(
                    f"| {family} | {size[0]:,} | {size[1]} | {size[2]} | {now / base:.3f} | "
                    f"{exponent:.2f} in {'NKD'[axis]} |",
                    flush=True,
                )
                time_before = now


if __name__ == "__main__":
    main(tyro.cli(Options))

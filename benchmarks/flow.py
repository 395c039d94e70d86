"""Velocities of the exact flow from N(0, I) to a mixture of CIFAR-10 codes: python benchmarks/flow.py --data-dir DIR.

Prints the milliseconds of a batch after compilation, the seconds that making the path took, and how far float32 is from
float64.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cifar_codes import codes, fit, load_pixels

from jgmm import interpolant as ip
from jgmm.covariance.diag import Diag
from jgmm.mixture import GMM

TIMES = (0.01, 0.5, 0.99)


@dataclass(frozen=True)
class Options:
    data_dir: Path | None = None
    """Folder with CIFAR-10; without it the embedded photographs stand in."""
    families: tuple[str, ...] = ("diag", "full")
    n: int = 20_000
    k: int = 100
    d: int = 300
    batch: int = 512
    iterations: int = 5
    reg_covar: float = 1e-2


def main(options: Options) -> None:
    name, pixels = load_pixels(options.data_dir)
    z, metric = codes(pixels[: options.n], options.d)
    device = f"{jax.default_backend()}: {jax.devices()[0].device_kind}"
    print(f"{name} PCA-{options.d}, K0=1, K1={options.k}, {options.batch} points; {device}\n")
    print("| covariances | t | velocities, ms | relative error in float32, mean and largest |\n|---|---|---|---|")
    for family in options.families:
        target = fit(z, metric, family, options.k, options.iterations, options.reg_covar).gmm
        source = GMM(jnp.zeros(1), jnp.zeros((1, options.d)), Diag(jnp.ones((1, options.d))))
        begun = time.perf_counter()
        path = ip.path(ip.couple(source, target))
        made = time.perf_counter() - begun
        for t in TIMES:
            _, _, x = ip.sample(jax.random.key(1), path, t, options.batch)
            error = relative_error(source, target, t, x, ip.velocity(path, t, x))
            shown = f"{error.mean():.1e}, {error.max():.1e}"
            print(f"| {family} | {t} | {milliseconds(path, t, x):.1f} | {shown} |", flush=True)
        print(f"| {family} | made in {made:.1f} s | | |", flush=True)


def milliseconds(path: ip.Path, t: float, x: jax.Array, times: int = 15) -> float:
    """The median of several calls after one that compiles."""
    jax.block_until_ready(ip.velocity(path, t, x))
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        jax.block_until_ready(ip.velocity(path, t, x))
        seconds.append(time.perf_counter() - begun)
    return 1000 * float(np.median(seconds))


def relative_error(source: GMM, target: GMM, t: float, x: jax.Array, u: jax.Array) -> np.ndarray:
    """‖u − exact‖ / ‖exact‖ of every point, exact by the same computation in float64."""
    jax.config.update("jax_enable_x64", True)
    source, target = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (source, target))
    exact = np.asarray(ip.velocity(ip.path(ip.couple(source, target)), t, jnp.asarray(np.asarray(x), jnp.float64)))
    jax.config.update("jax_enable_x64", False)
    return np.linalg.norm(np.asarray(u) - exact, axis=1) / np.linalg.norm(exact, axis=1)


if __name__ == "__main__":
    main(tyro.cli(Options))

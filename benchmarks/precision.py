"""What each precision of the matrix products costs in accuracy, against float64.

    python benchmarks/precision.py --data-dir DIR

A full-covariance mixture of PCA-300 codes of CIFAR-10, fitted in float32 by products in full precision, is evaluated
by products of lower precision, and fitted on by them for a few iterations. Prints the largest error of a log-density,
that of the mean, and how far from float64 the log-likelihood is after the iterations.

The units of GPUs and TPUs are imitated: the roundings of TF32 (10 bits of mantissa, NVIDIA's "high" and "default"), of
three bfloat16 passes (a TPU's "high") and of bfloat16 (its "default") are put on the factors of every product, which
is what those units do before they multiply and add up in float32.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cifar_codes import codes, load_pixels

import jgmm.covariance.base
import jgmm.covariance.full
import jgmm.numerics.distances
from jgmm.covariance.prior import Floor
from jgmm.em.loop import run_em
from jgmm.mixture import GMM

Product = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Options:
    data_dir: Path | None = None
    """Folder with CIFAR-10; without it the embedded photographs stand in."""
    n: int = 10_000
    d: int = 300
    k: int = 10
    iterations: int = 5
    reg_covar: float = 1e-2
    """Added to every variance, in every precision."""


def rounded(a: jax.Array, bits: int) -> jax.Array:
    """a with so many explicit bits of mantissa."""
    return jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=bits)


def exact(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def one_pass(bits: int) -> Product:
    return lambda a, b: exact(rounded(a, bits), rounded(b, bits))


def three_passes(a: jax.Array, b: jax.Array) -> jax.Array:
    high_a, high_b = rounded(a, 7), rounded(b, 7)
    low_a, low_b = rounded(a - high_a, 7), rounded(b - high_b, 7)
    return exact(high_a, high_b) + exact(low_a, high_b) + exact(high_a, low_b)


PRODUCTS: dict[str, Product] = {
    "float32 (highest)": exact,
    "bfloat16, three passes (high on a TPU)": three_passes,
    "TF32 (high and default on NVIDIA)": one_pass(10),
    "bfloat16 (default on a TPU)": one_pass(7),
}


@contextlib.contextmanager
def products_by(product: Product) -> Iterator[None]:
    """Every product of EM and of densities by `product`."""
    modules = (jgmm.numerics.distances, jgmm.covariance.full, jgmm.covariance.base)
    kept = [module.matmul for module in modules]
    for module in modules:
        module.matmul = product
    jax.clear_caches()
    try:
        yield
    finally:
        for module, original in zip(modules, kept, strict=True):
            module.matmul = original
        jax.clear_caches()


def main(options: Options) -> None:
    data_name, pixels = load_pixels(options.data_dir)
    x = jnp.asarray(codes(pixels[: options.n], options.d)[0])
    floor = Floor(absolute=options.reg_covar, relative=0.0)
    begin = run_em(jax.random.key(0), x, k=options.k, covariance_type="full", max_iter=5, tol=0.0, floor=floor).gmm

    def go_on(gmm: GMM, data: jax.Array) -> GMM:
        iterations = options.iterations
        fitted = run_em(jax.random.key(0), data, k=options.k, start=gmm, max_iter=iterations, tol=0.0, floor=floor)
        return fitted.gmm

    by: dict[str, tuple[np.ndarray, GMM | None]] = {}
    for name, product in PRODUCTS.items():
        with products_by(product):
            densities = np.asarray(begin.log_prob(x), np.float64)
            try:
                by[name] = densities, go_on(begin, x)
            except jgmm.InputError:
                by[name] = densities, None
    jax.config.update("jax_enable_x64", True)
    data, begin64 = jnp.asarray(x, jnp.float64), as_float64(begin)
    true, best = np.asarray(begin64.log_prob(data)), mean_log_prob(go_on(begin64, data), data)
    print("each against float64, nats an image")
    print(f"{data_name} PCA-{options.d}, N={options.n}, K={options.k} full; {jax.default_backend()}\n")
    print(
        "| products | largest error of a log-density, nats | error of the mean | log-likelihood after the iterations |"
    )
    print("|---|---|---|---|")
    for name, (densities, gmm) in by.items():
        error = densities - true
        after = "not positive definite" if gmm is None else f"{mean_log_prob(as_float64(gmm), data) - best:+.1e}"
        print(f"| {name} | {np.abs(error).max():.1e} | {error.mean():+.1e} | {after} |")


def as_float64(gmm: GMM) -> GMM:
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), gmm)


def mean_log_prob(gmm: GMM, x: jax.Array) -> float:
    return float(gmm.log_prob(x).mean())


if __name__ == "__main__":
    main(tyro.cli(Options))

"""`jgmm.fit_em` beside scikit-learn's GaussianMixture on plain tables: likelihoods and seconds, compiling included.

    python benchmarks/tables.py [--n-init 10] [--estimator]

With --estimator it is `jgmm.GaussianMixture`, which starts where scikit-learn's starts.

Five data sets of scikit-learn and twenty random mixtures of 2 to 50 features, four families of covariances, float64 and
float32; the best of `n-init` starts each, everything else as each library has it by default. Likelihoods are judged in
float64. jgmm is in a process that has fitted one other table; every shape is new to it.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from em import describe, machine
from scipy.special import logsumexp
from sklearn import datasets
from sklearn.mixture import GaussianMixture

import jgmm

FAMILIES = ("full", "tied", "diag", "spherical")
RANDOM = 20
# A likelihood within this of the other, nats a row, is as good.
EQUAL = 1e-3


def tables() -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, rows and number of components."""
    for name, k in (("iris", 3), ("wine", 3), ("breast_cancer", 2), ("digits", 10), ("diabetes", 4)):
        yield name, getattr(datasets, f"load_{name}")().data, k
    for seed in range(RANDOM):
        rng = np.random.default_rng(seed)
        d, k, n = round(2 * 25 ** (seed / (RANDOM - 1))), int(rng.integers(2, 11)), int(rng.integers(500, 3001))
        label, means = rng.integers(k, size=n), 3 * rng.standard_normal((k, d))
        factors = rng.standard_normal((k, d, d)) * rng.uniform(0.3, 1.5, (k, 1, 1)) / np.sqrt(d)
        x = means[label] + np.einsum("nij,nj->ni", factors[label], rng.standard_normal((n, d)))
        yield f"mixture {seed}", x * rng.uniform(0.1, 10, d), k


def by_jgmm(x: np.ndarray, k: int, family: str, n_init: int) -> tuple[Any, ...]:
    """Weights, means, Cholesky factors, and seconds."""
    begun = time.perf_counter()
    gmm = jgmm.fit_em(0, x, k, covariance_type=family, n_init=n_init).gmm
    seconds = time.perf_counter() - begun
    factors = gmm.covariance.factor() if family in ("diag", "spherical") else jax.tree.leaves(gmm.covariance)[0]
    return gmm.weights, gmm.means, np.asarray(factors, np.float64), seconds


def by_estimator(kind: type, x: np.ndarray, k: int, family: str, n_init: int) -> tuple[Any, ...]:
    """Weights, means, Cholesky factors, and seconds."""
    begun = time.perf_counter()
    model = kind(k, covariance_type=family, n_init=n_init, random_state=0).fit(x)
    seconds = time.perf_counter() - begun
    c, eye = model.covariances_.astype(np.float64), np.eye(x.shape[1])
    dense = {"full": lambda: c, "tied": lambda: c[None], "diag": lambda: c[:, :, None] * eye}
    matrices = dense.get(family, lambda: c[:, None, None] * eye)()
    return model.weights_, model.means_, np.linalg.cholesky(matrices), seconds


def judge(x: np.ndarray, weights: Any, means: Any, factors: np.ndarray) -> float:
    """Mean log-likelihood, nats a row, in float64."""
    weights, means = np.asarray(weights, np.float64), np.asarray(means, np.float64)
    factors = np.broadcast_to(factors, (len(means), *factors.shape[1:]))
    log_p = np.empty((len(means), len(x)))
    for k, (mean, factor) in enumerate(zip(means, factors, strict=True)):
        y = np.linalg.solve(factor, (x - mean).T)
        log_p[k] = np.log(weights[k]) - 0.5 * (y * y).sum(axis=0) - np.log(np.diag(factor)).sum()
    return float(logsumexp(log_p, axis=0).mean() - 0.5 * x.shape[1] * np.log(2 * np.pi))


def main() -> None:
    """Run all cases, and print a line for each table and a summary for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-init", type=int, default=10)
    parser.add_argument("--estimator", action="store_true", help="jgmm.GaussianMixture in the place of jgmm.fit_em")
    asked = parser.parse_args()
    n_init, fit = asked.n_init, partial(by_estimator, jgmm.GaussianMixture) if asked.estimator else by_jgmm
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    print(f"{describe(machine())}\nbest of {n_init} starts; log-likelihood of jgmm minus scikit-learn's, nats a row\n")
    for dtype in ("float64", "float32"):
        print(f"| {dtype} | rows | features | K |" + "".join(f" {f} |" for f in FAMILIES) + " time |")
        print("|---|---|---|---|" + "---|" * (len(FAMILIES) + 1))
        compare(dtype, n_init, fit)


def compare(dtype: str, n_init: int, fit: Callable[..., tuple[Any, ...]]) -> None:
    """All cases in one dtype."""
    warm = np.random.default_rng(0).standard_normal((50, 2)).astype(dtype)
    fit(warm, 2, "full", 1), by_estimator(GaussianMixture, warm, 2, "full", 1)
    good, failed, total = 0, 0, np.zeros(2)
    for name, x, k in tables():
        cells, seconds = [], np.zeros(2)
        for family in FAMILIES:
            *ours, ours_took = fit(x.astype(dtype), k, family, n_init)
            value = judge(x, *ours)
            try:
                *theirs, took = by_estimator(GaussianMixture, x.astype(dtype), k, family, n_init)
                difference = value - judge(x, *theirs)
            except (ValueError, np.linalg.LinAlgError):  # its own error, or covariances that are not positive definite
                failed, difference = failed + 1, np.inf
                cells.append("fails")
            else:
                seconds += (ours_took, took)
                cells.append(f"{difference:+.3f}")
            good += difference >= -EQUAL
        total += seconds
        cells.append(f"{seconds[1] / seconds[0]:.1f} x")
        print(f"| {name} | {len(x)} | {x.shape[1]} | {k} | {' | '.join(cells)} |", flush=True)
    cases = len(FAMILIES) * (RANDOM + 5)
    print(f"\nat least scikit-learn's − {EQUAL}: {good} of {cases}, of which scikit-learn fails {failed};", end=" ")
    print(f"the time of the others, compiling included: scikit-learn {total[1] / total[0]:.1f} x jgmm\n")


if __name__ == "__main__":
    main()

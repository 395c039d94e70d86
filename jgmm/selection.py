"""How many components, and of which family: fits of every combination, side by side.

    BIC = p log N − 2 log L,      AIC = 2 p − 2 log L,      lower is better

with p free parameters, N rows and log L the log-likelihood of all of them (Schwarz, Estimating the dimension of a
model, 1978; Akaike, A new look at the statistical model identification, 1974).
"""

import csv
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jgmm import em, mixture, restarts
from jgmm.checkpoint import zero_gmm
from jgmm.checks import InputError
from jgmm.chunks import map_chunks
from jgmm.em import EMState
from jgmm.mixture import GMM
from jgmm.options import SweepOptions
from jgmm.report import CompileClock
from jgmm.tables import COVARIANCES
from jgmm.unconstrained import n_parameters
from jgmm.workflow import EM, Codes, prior_of


def bic(log_likelihood: float, p: int, n: int) -> float:
    """The Bayesian information criterion of a log-likelihood in nats, summed over n rows."""
    return p * math.log(n) - 2 * log_likelihood


def aic(log_likelihood: float, p: int) -> float:
    """Akaike's information criterion of a log-likelihood in nats, summed over all rows."""
    return 2 * p - 2 * log_likelihood


@dataclass(frozen=True)
class Row:
    """One fit of a sweep. Log-likelihoods are means, nats a row; seconds are those of clustering and EM without
    compiling. A fit that failed has NaN, and says why."""

    covariance_type: str
    k: int
    parameters: int
    train: float = math.nan
    held_out: float = math.nan
    bic: float = math.nan
    aic: float = math.nan
    iterations: int = 0
    converged: bool = False
    seconds: float = math.nan
    error: str = ""

    def __str__(self) -> str:
        """The line of the table under `HEADER`."""
        if self.error:
            return f"{_line((self.covariance_type, self.k, self.parameters))}  failed: {self.error}"
        means, criteria = (f"{self.train:.3f}", f"{self.held_out:.3f}"), (f"{self.bic:,.0f}", f"{self.aic:,.0f}")
        end = (f"{self.iterations}{' ' if self.converged else '*'}", f"{self.seconds:.2f}")
        return _line((self.covariance_type, self.k, self.parameters, *means, *criteria, *end))


def _line(cells: Iterable[object]) -> str:
    return " ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, (14, 4, 10, 11, 11, 14, 14, 5, 8), strict=False))


# An asterisk beside the iterations: stopped before convergence.
HEADER = _line(("covariances", "K", "parameters", "train", "held out", "BIC", "AIC", "iter", "seconds"))


# What `--criterion` names, as a number of which the greatest is best.
CRITERIA = {"held-out": lambda row: row.held_out, "bic": lambda row: -row.bic, "aic": lambda row: -row.aic}


def sweep(
    options: SweepOptions, train: Codes, held_out: Codes, clock: CompileClock
) -> Iterator[tuple[Row, EMState | None]]:
    """Every combination of the options fitted to the same codes, one after the other; None where a fit failed."""
    for family in dict.fromkeys(map(COVARIANCES.canonical, options.covariance_type)):
        for k in dict.fromkeys(options.k):
            yield _one(options, family, k, train, held_out, clock)


def _one(
    options: SweepOptions, family: str, k: int, train: Codes, held_out: Codes, clock: CompileClock
) -> tuple[Row, EMState | None]:
    x = train.values
    structure = jax.eval_shape(lambda: zero_gmm(k, x.shape[1], family, x.dtype))
    row = Row(family, k, n_parameters(structure))
    begun = time.perf_counter() - clock.seconds
    try:
        state = _fit(options, family, k, train, structure)
    except InputError as error:
        return replace(row, error=str(error)), None
    seconds = time.perf_counter() - clock.seconds - begun
    means = [_mean_log_prob(state.gmm, codes.values) + codes.offset for codes in (train, held_out)]
    total, n = means[0] * x.shape[0], x.shape[0]
    return replace(
        row,
        train=means[0],
        held_out=means[1],
        bic=bic(total, row.parameters, n),
        aic=aic(total, row.parameters),
        iterations=len(state.history),
        converged=state.converged,
        seconds=seconds,
    ), state


def _fit(options: SweepOptions, family: str, k: int, train: Codes, structure: GMM) -> EMState:
    """EM from as many starts as asked for; where they are small, all at once, to find the best of them."""
    x, metric = train.values, train.rotation.code_variances()
    prior = jax.tree.map(lambda v: None if v is None else jnp.asarray(v, x.dtype), prior_of(options, x))
    key, n_init, start = jax.random.fold_in(jax.random.key(options.seed), EM), options.n_init, None
    if restarts.fits(n_init, x.shape[0], structure):
        start, _ = restarts.best_of(
            key,
            x,
            metric,
            prior,
            k=k,
            covariance_type=family,
            method=options.init,
            n_init=n_init,
            max_iter=options.max_iter,
            tol=options.tol,
        )
    return em.fit(
        key,
        x,
        k=k,
        covariance_type=family,
        init=options.init,
        metric=metric,
        n_init=n_init,
        max_iter=options.max_iter,
        tol=options.tol,
        prior=prior,
        chunk_size=options.chunk_size,
        start=start,
    )


@jax.jit
def _log_prob(gmm: GMM, x: Array) -> Array:
    joint = mixture.log_joint(gmm)
    return map_chunks(lambda rows: jax.nn.logsumexp(joint(rows), axis=1), x)


def _mean_log_prob(gmm: GMM, x: Array) -> float:
    return float(np.asarray(_log_prob(gmm, x)).mean(dtype=np.float64))


def write_csv(path: Path, rows: list[Row]) -> None:
    """A line a fit, with the names of the fields above."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)

"""Model selection: fits of every number of components and family, side by side."""

import csv
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import jax

from jgmm.checkpoint.files import whole
from jgmm.checkpoint.structure import abstract_gmm
from jgmm.commands.codes import EM_STREAM, Codes, em_options
from jgmm.commands.options import SweepOptions
from jgmm.commands.progress import CompileClock
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import Prior, around_data, as_arrays
from jgmm.em.loop import EMState, run_em
from jgmm.em.restarts import best_of, fits
from jgmm.em.rows import on_mesh
from jgmm.errors import InputError
from jgmm.metrics.information import aic, bic
from jgmm.metrics.likelihood import mean_log_prob
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES


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


def compare(
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
    structure = abstract_gmm(k, x.shape[1], family, x.dtype)
    row = Row(family, k, structure.n_parameters)
    begun = time.perf_counter() - clock.seconds
    try:
        state = _fit(options, family, k, train, structure)
    except InputError as error:
        return replace(row, error=str(error)), None
    seconds = time.perf_counter() - clock.seconds - begun
    means = [mean_log_prob(state.gmm, codes.values) + codes.offset for codes in (train, held_out)]
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
    x, shared = train.values, em_options(options, train, train.values)
    key, start = jax.random.fold_in(jax.random.key(options.seed), EM_STREAM), None
    if fits(options.n_init, x.shape[0], structure):
        # A prior that is learned is not needed to tell a good start from a bad one.
        prior = shared["prior"] if isinstance(shared["prior"], Prior) else around_data(x)
        arrays = as_arrays(prior, shared["floor"], x.dtype)
        same = {name: shared[name] for name in ("init", "n_init", "max_iter", "tol")}
        start, _ = best_of(key, x, shared["metric"], *arrays, k=k, identity=identity_of(family), **same)
    rows = on_mesh(x, None, options.chunk_size)
    return run_em(key, rows, k=k, covariance_type=family, start=start, **shared)


def write_csv(path: Path, rows: list[Row]) -> None:
    """A line a fit, with the names of the fields above."""
    with whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)

"""Fits of many families to many kinds of data: no NaN, no crash, and an objective that does not fall."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from trial import Part, forked

# Rows, features, components: few, for each is compiled.
SHAPES = [(200, 3, 4), (60, 8, 3), (24, 2, 24)]
# A fall of the objective, nats a row, that rounding explains: the digits of float32 in the size of the objective.
ROUNDING = 2e-5
AT_A_TIME = 40
# A variance below so many floors is one that the floor holds up.
FLOORED = 30


class Case(NamedTuple):
    """One fit."""

    family: str
    shape: tuple[int, int, int]
    kind: str
    dtype: str
    seed: int


Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def _normal(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.normal(size=(n, d))


def _clusters(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.normal(size=(4, d))[rng.integers(0, 4, n)] * 10 + rng.normal(size=(n, d))


def _with_outliers(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    x[rng.integers(0, n, 2)] *= 1e6
    return x


def _scales(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-6, 6, d)


def _constant_feature(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    x[:, 0] = 3.0
    return x


KINDS: dict[str, Draw] = {
    "normal": _normal,
    "clusters": _clusters,
    "constant": lambda rng, n, d: np.full((n, d), rng.normal()),
    "constant feature": _constant_feature,
    "duplicated": lambda rng, n, d: rng.normal(size=(5, d))[rng.integers(0, 5, n)],
    "one point and noise": lambda rng, n, d: np.where(rng.random((n, 1)) < 0.9, 1.0, rng.normal(size=(n, d))),
    "outliers of 1e6": _with_outliers,
    "scale 1e-6": lambda rng, n, d: 1e-6 * rng.normal(size=(n, d)),
    "scale 1e6": lambda rng, n, d: 1e6 * rng.normal(size=(n, d)),
    "scales 1e-6 to 1e6": _scales,
    "offset 1e4": lambda rng, n, d: 1e4 + rng.normal(size=(n, d)),
    "low rank": lambda rng, n, d: rng.normal(size=(n, 1)) @ rng.normal(size=(1, d)),
    "heavy tails": lambda rng, n, d: rng.standard_t(1.1, size=(n, d)),
    "integers": lambda rng, n, d: rng.integers(0, 3, (n, d)).astype(float),
}
DTYPES = ["float64", "float32", "float16", "int64"]


def cases(seed: int, n: int) -> list[Case]:
    """n of all combinations, in random order, and again with other seeds if there are not as many."""
    from jgmm.registry import COVARIANCES

    draw = random.Random(seed)
    every = list(itertools.product(COVARIANCES, SHAPES, KINDS, DTYPES))
    found: list[Case] = []
    while len(found) < n:
        draw.shuffle(every)
        found += [Case(*combination, draw.randrange(2**31)) for combination in every]
    return sorted(found[:n])


def fit(case: Case) -> tuple[str, str]:
    """One fit: what became of it, and why."""
    import jax

    import jgmm

    n, d, k = case.shape
    rng = np.random.default_rng(case.seed)
    with np.errstate(over="ignore", invalid="ignore"):
        x = KINDS[case.kind](rng, n, d).astype(case.dtype)
    if not np.isfinite(x.astype(float)).all():
        return "skipped", "the data are not finite in this dtype"
    try:
        found = jgmm.fit_em(case.seed, x, k, covariance_type=case.family, max_iter=20)
    except jgmm.InputError as error:
        return "refused", str(error)
    values = [*jax.tree.leaves(found.gmm), np.array(found.history), found.gmm.log_prob(x.astype(float))]
    if not all(np.isfinite(np.where(np.isneginf(v), 0, v)).all() for v in values[:1]) or not all(
        np.isfinite(v).all() for v in values[1:]
    ):
        return "NaN", "a parameter, the objective or a log-density is not finite"
    falls = -np.diff(found.history)
    size = max(1.0, float(np.abs(found.history).max()))
    if len(falls) and falls.max() > ROUNDING * size and not _has_floored_variance(found.gmm, x):
        return "fell", f"by {falls.max():.3g} of {size:.4g}"
    return "well", ""


def _has_floored_variance(gmm: Any, x: np.ndarray) -> bool:
    """Whether a variance, in the units in which EM ran, is at its floor, or at what float32 can tell of such values."""
    from jgmm.em.tables import as_rows
    from jgmm.encoder.standardize import robust

    rows = as_rows(x)
    encoder = robust(rows, common=gmm.covariance.scales == "common")
    scale = np.asarray(encoder.scale)
    matrices = np.asarray(gmm.covariance.dense(), np.float64) / (scale[:, None] * scale[None])
    resolution = float(np.abs(encoder.encode(rows)).max()) * np.finfo(np.float32).eps
    return float(np.linalg.eigvalsh(matrices).min()) <= FLOORED * (1e-6 + (8 * resolution) ** 2)


def run(seed: int, folder: Path, size: float) -> list[Part]:
    """1,000 fits at size 1."""
    part, fallen = Part("fuzzed fits"), Part("of them, objective never falls")
    todo = cases(seed, max(3, round(1000 * size)))
    for first in range(0, len(todo), AT_A_TIME):
        batch = todo[first : first + AT_A_TIME]
        outcome = forked(_all, batch)
        results: list[Any] = outcome.value or [("crash", str(outcome))] * len(batch)
        for case, (verdict, why) in zip(batch, results, strict=True):
            told = f"{case}: {verdict}, {why}"
            if verdict == "refused":
                part.refuse()
                print(f"  refused {told}")
            elif verdict != "skipped":
                part.judge(verdict in ("well", "fell"), told)
                fallen.judge(verdict == "well", told)
    return [part, fallen]


def _all(batch: list[Case]) -> list[tuple[str, str]]:
    return [_guarded(case) for case in batch]


def _guarded(case: Case) -> tuple[str, str]:
    try:
        return fit(case)
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"

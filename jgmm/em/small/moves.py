"""Splitting one component and giving up another, where that raises the objective.

EM climbs to the nearest maximum; most that are poor have one component on two clusters and two on another. Which one is
to be given up, and which to be halved, is judged by what it would cost and bring; the best few pairs are tried by EM
(Ueda, Nakano, Ghahramani and Hinton, SMEM algorithm for mixture models, Neural Computation 12, 2000).
"""

from typing import NamedTuple

import numpy as np

from jgmm.em.rows import unit_of
from jgmm.em.small.steps import Mixture, Table, kmeans, normalized, one_hot

# Components that are tried before a mixture counts as the best of its neighbors; iterations that shape two halves.
TRIES, SHAPING = 3, 2
# Responsibilities that take part in halving a component; the least that a half must explain, in rows.
SHARE, LEAST = 1e-3, 2.0


class _Halves(NamedTuple):
    """Two halves of a component, and what they bring: the rise of the log-likelihood, nats."""

    mixture: Mixture | None
    gain: float


def moves(table: Table, rng: np.random.Generator, mixture: Mixture) -> list[np.ndarray]:
    """The responsibilities from which to try EM, the most promising first."""
    log_joint = table.log_joint(mixture)
    _, r = normalized(log_joint)
    cost = -np.log1p(-np.minimum(r, 1 - 1e-16)) @ table.weight
    halves = [_halved(table, rng, mixture, k, log_joint[k], r[k]) for k in range(len(r))]
    net = np.array([h.gain for h in halves])[None] - cost[:, None]  # of giving up the row, halving the column
    np.fill_diagonal(net, -np.inf)
    given_up = net.argmax(axis=0)
    found = []
    for k in np.argsort(-net.max(axis=0))[:TRIES]:
        if net[given_up[k], k] > -np.inf:
            found.append(_moved(table, log_joint, int(given_up[k]), int(k), halves[k].mixture))
    return found


def _halved(
    table: Table, rng: np.random.Generator, mixture: Mixture, k: int, log_joint: np.ndarray, r: np.ndarray
) -> _Halves:
    """Component k as two, from two clusters of its rows by a few iterations of EM."""
    rows = np.flatnonzero(r > SHARE)
    weight = table.weight[rows]
    least = LEAST * float(unit_of(np, table.weight))
    if weight.sum() < 2 * least or len(rows) < 2:
        return _Halves(None, -np.inf)
    share = one_hot(kmeans(rng, table.x[rows], 2, weight), 2, weight) * r[rows]
    for _ in range(SHAPING):
        if share.sum(axis=1).min() < least:
            return _Halves(None, -np.inf)
        try:
            pair = table.m_step(share, rows)
        except np.linalg.LinAlgError:
            return _Halves(None, -np.inf)
        # The halves share the weight, and a covariance that all components share.
        pair = pair._replace(log_weights=pair.log_weights + mixture.log_weights[k])
        pair = pair._replace(leaf=mixture.leaf) if table.arithmetic.tied else pair
        log_p, posterior = normalized(table.log_joint(pair, rows))
        share = posterior * r[rows] * weight
    return _Halves(pair, float((weight * r[rows] * (log_p - log_joint[rows])).sum()))


def _moved(table: Table, log_joint: np.ndarray, given_up: int, k: int, pair: Mixture) -> np.ndarray:
    """Responsibilities when a component is given up for one half of component k."""
    others = log_joint.copy()
    others[given_up] = -np.inf
    _, r = normalized(others)
    _, half = normalized(table.log_joint(pair))
    r[given_up] = r[k] * half[0]
    r[k] *= half[1]
    return r * table.weight

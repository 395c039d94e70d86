"""Information criteria: how many components, and of which family.

    BIC = p log N − 2 log L,      AIC = 2 p − 2 log L,      lower is better

with p free parameters, N rows and log L the log-likelihood of all of them (Schwarz, Estimating the dimension of a
model, 1978; Akaike, A new look at the statistical model identification, 1974).
"""

import math
from typing import Protocol, runtime_checkable


@runtime_checkable
class Comparison(Protocol):
    """What a criterion reads of a fit: mean log-likelihood of held-out rows, BIC and AIC."""

    held_out: float
    bic: float
    aic: float


def bic(log_likelihood: float, p: int, n: int) -> float:
    """The Bayesian information criterion of a log-likelihood in nats, summed over n rows.

    >>> from jgmm.metrics.information import bic
    >>> round(bic(-100.0, 3, 50), 3)
    211.736
    """
    return p * math.log(n) - 2 * log_likelihood


def aic(log_likelihood: float, p: int) -> float:
    """Akaike's information criterion of a log-likelihood in nats, summed over all rows.

    >>> from jgmm.metrics.information import aic
    >>> aic(-100.0, 3)
    206.0
    """
    return 2 * p - 2 * log_likelihood


def by_held_out(fit: Comparison) -> float:
    """The log-likelihood of the rows held out."""
    return fit.held_out


def by_bic(fit: Comparison) -> float:
    """Minus the Bayesian information criterion."""
    return -fit.bic


def by_aic(fit: Comparison) -> float:
    """Minus Akaike's information criterion."""
    return -fit.aic

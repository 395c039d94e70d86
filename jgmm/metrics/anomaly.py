"""Examples that a mixture finds unlikely, and how well that tells data sets apart."""

from typing import NamedTuple

import numpy as np

from jgmm.errors import check


class Separation(NamedTuple):
    """How well a score tells other data from its own: the area under the ROC curve, the probability that an example of
    the others scores worse than one of its own; 0.5 is chance.

    Attributes:
        likelihood: with log p(x) for a score: the others are less likely.
        typicality: with −|log p(x) − E log p|: the others are less likely or likelier than usual (Nalisnick et al.,
            Detecting out-of-distribution inputs to deep generative models using typicality, arXiv 1906.02994, for
            batches of one). Smooth images are often likelier than those a model was fitted to.
    """

    likelihood: float
    typicality: float


class Limits(NamedTuple):
    """Log-densities outside of which an example is an anomaly."""

    low: float
    high: float

    def outside(self, log_prob: np.ndarray) -> np.ndarray:
        """Which examples are anomalies."""
        return (log_prob < self.low) | (log_prob > self.high)


def limits(train_log_prob: np.ndarray, quantile: float, *, two_sided: bool = False) -> Limits:
    """The quantile of the log-density of the training data, below which an example is an anomaly; or half of it at
    either end.

    Raises:
        InputError: Unless 0 < quantile < 1.
    """
    check(0 < quantile < 1, f"the quantile must be between 0 and 1, got {quantile}.")
    if not two_sided:
        return Limits(float(np.quantile(train_log_prob, quantile)), np.inf)
    low, high = np.quantile(train_log_prob, [quantile / 2, 1 - quantile / 2])
    return Limits(float(low), float(high))


def separation(train_log_prob: np.ndarray, own: np.ndarray, others: np.ndarray) -> Separation:
    """From the log-densities of the training data, of data like them, and of others."""
    usual = train_log_prob.mean(dtype=np.float64)
    return Separation(_auroc(own, others), _auroc(-np.abs(own - usual), -np.abs(others - usual)))


def _auroc(own: np.ndarray, others: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([1, 0], [len(own), len(others)]), np.concatenate([own, others])))

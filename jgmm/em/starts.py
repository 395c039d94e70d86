"""How much of each row the components have before EM, as scikit-learn draws it for each of its `init_params`."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans, kmeans_plusplus

# (rows, k, how often each counts or None, random numbers) -> responsibilities [N, K].
Start = Callable[[np.ndarray, int, np.ndarray | None, np.random.RandomState], Float[np.ndarray, "n k"]]


def _clusters(x: np.ndarray, k: int, weight: np.ndarray | None, rng: np.random.RandomState) -> np.ndarray:
    return np.eye(k)[KMeans(k, n_init=1, random_state=rng).fit(x, sample_weight=weight).labels_]


def _seeds(x: np.ndarray, k: int, weight: np.ndarray | None, rng: np.random.RandomState) -> np.ndarray:
    return _alone(len(x), kmeans_plusplus(x, k, sample_weight=weight, random_state=rng)[1])


def _rows(x: np.ndarray, k: int, weight: np.ndarray | None, rng: np.random.RandomState) -> np.ndarray:
    share = None if weight is None else weight / weight.sum()
    return _alone(len(x), rng.choice(len(x), size=k, replace=False, p=share))


def _shares(x: np.ndarray, k: int, weight: np.ndarray | None, rng: np.random.RandomState) -> np.ndarray:
    r = rng.uniform(size=(len(x), k))
    return r / r.sum(axis=1, keepdims=True)


def _alone(n: int, chosen: np.ndarray) -> np.ndarray:
    """Every component has one row."""
    r = np.zeros((n, len(chosen)))
    r[chosen, np.arange(len(chosen))] = 1
    return r


STARTS: dict[str, Start] = {"kmeans": _clusters, "k-means++": _seeds, "random_from_data": _rows, "random": _shares}

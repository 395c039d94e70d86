"""What of the images is generated, and what of the generated is an image: four numbers from nearest neighbors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.errors import check
from jgmm.numerics.linalg import matmul

# Neighbors that the radius of an image is taken from, and rows of a matrix of distances at a time.
NEIGHBORS, ROWS = 5, 1000


class Manifold(NamedTuple):
    """With the ball of an image, up to its k-th nearest neighbor of its own kind:

    Attributes:
        precision: the share of generated images that lie in the ball of a real one, and
        recall: of real images in the ball of a generated one (Kynkäänniemi et al., arXiv 1904.06991);
        density: the mean number of balls of real images that a generated one lies in, over k, and
        coverage: the share of real images whose ball holds a generated one (Naeem et al., arXiv 2002.09797).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Float[np.ndarray, "n d"], made: Float[np.ndarray, "m d"], neighbors: int = NEIGHBORS) -> Manifold:
    """The four numbers, in these features. Raises InputError for fewer samples than neighbors.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> manifold(x, x + 100).precision
    0.0
    """
    n = min(len(real), len(made))
    check(n > neighbors, f"{neighbors} nearest neighbors need at least {neighbors + 1} samples of each kind, got {n}.")
    x, y = jnp.asarray(real, jnp.float32), jnp.asarray(made, jnp.float32)
    middle = x.mean(axis=0, keepdims=True)  # distances keep their digits about it
    x, y = x - middle, y - middle
    of_real, of_made = _radii(x, neighbors), _radii(y, neighbors)
    inside, covered, found = np.zeros(len(made)), np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        apart = np.asarray(_distances(x[rows], y))
        inside += (apart <= of_real[rows, None]).sum(axis=0)
        covered[rows] = (apart <= of_real[rows, None]).any(axis=1)
        found[rows] = (apart <= of_made[None]).any(axis=1)
    return Manifold(
        float((inside > 0).mean()), float(found.mean()), float(inside.mean() / neighbors), float(covered.mean())
    )


def _radii(x: Float[Array, "n d"], neighbors: int) -> np.ndarray:
    """The squared distance of each row to its k-th nearest neighbor, not counting itself."""
    parts = [np.asarray(_distances(x[i : i + ROWS], x)) for i in range(0, x.shape[0], ROWS)]
    return np.concatenate([np.partition(part, neighbors, axis=1)[:, neighbors] for part in parts])


@jax.jit
def _distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    found = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * matmul(a, b.T)
    return jnp.maximum(found, 0)

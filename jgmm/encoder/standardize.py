"""Standardization: every feature in units of its own spread, or all in one unit.

`standardize` takes the mean and the standard deviation; `robust` the median and the interquartile range, which a few
rows far away do not move.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance
from jgmm.encoder.base import Encoder
from jgmm.mixture import GMM
from jgmm.numerics.pytree import pytree

# A feature whose deviation is less than this times eps times its size is constant.
CONSTANT = 16
# The interquartile range of a normal distribution, in standard deviations.
NORMAL_RANGE = 1.3489795


@pytree
class Standardize(Encoder):
    """z = (x − mean) / scale, feature by feature.

    >>> import jax.numpy as jnp
    >>> from jgmm.encoder.standardize import Standardize
    >>> Standardize.fit(jnp.array([[1.0, 5.0], [3.0, 5.0]])).encode(jnp.array([[3.0, 6.0]])).round(3).tolist()
    [[1.0, 1.0]]
    """

    mean: Float[Array, " p"]
    scale: Float[Array, " p"]

    name: ClassVar[str] = "standardize"

    @classmethod
    def fit(
        cls, x: Float[Array, "n p"], common: bool = False, weight: Float[Array, " n"] | None = None
    ) -> "Standardize":
        """The mean and deviation (divisor N) of every feature, of rows that count so often; with `common` one
        deviation, that of all features pooled, which keeps spherical covariances spherical. A constant feature keeps
        its scale."""
        return _on_device(x, weight, common, False)

    @property
    def n_codes(self) -> int:
        return self.mean.shape[0]

    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n p"]:
        return (x - self.mean[None]) / self.scale[None]

    def decode(self, z: Float[Array, "n p"], residual: Float[Array, "n 0"]) -> Float[Array, "n p"]:
        return self.mean[None] + z * self.scale[None]

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a p"]:
        return jax.nn.one_hot(features, self.n_codes, dtype=self.scale.dtype) * self.scale[None]

    def log_det(self) -> Float[Array, ""]:
        return -jnp.log(self.scale).sum()

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        return covariance.variance() * (self.scale * self.scale)[None]

    def code_variances(self) -> Float[Array, " p"]:
        return self.scale * self.scale

    def encode_mixture(self, gmm: GMM) -> GMM | None:
        if not self._keeps(gmm.covariance):
            return None
        means = (gmm.means - self.mean[None]) / self.scale[None]
        return GMM(gmm.log_weights, means, gmm.covariance.scaled(1 / self.scale))

    def decode_mixture(self, gmm: GMM) -> GMM | None:
        if not self._keeps(gmm.covariance):
            return None
        means = self.mean[None] + gmm.means * self.scale[None]
        return GMM(gmm.log_weights, means, gmm.covariance.scaled(self.scale))

    def _keeps(self, covariance: Covariance) -> bool:
        """Whether covariances of scaled features are of the same family."""
        if covariance.scales == "common":
            return not isinstance(self.scale, jax.core.Tracer) and bool((self.scale == self.scale[0]).all())
        return covariance.scales == "features"


def robust(x: Float[Array, "n p"], common: bool = False, weight: Float[Array, " n"] | None = None) -> Standardize:
    """The median of every feature, and its interquartile range in units of that of a normal distribution; the deviation
    where the range is zero. With `common` one unit, the root mean square of all of them.

    >>> import jax.numpy as jnp
    >>> from jgmm.encoder.standardize import robust
    >>> robust(jnp.array([[0.0], [1.0], [2.0], [3.0], [1e6]])).mean.tolist()
    [2.0]
    """
    return _on_device(x, weight, common, True)


@jax.jit
def _on_device(
    x: Float[Array, "n p"], weight: Float[Array, " n"] | None, common: bool | Array, by_quartiles: bool | Array
) -> Standardize:
    return Standardize(*_middle_and_scale(jnp, x, weight, common, by_quartiles))


def on_host(
    x: np.ndarray, weight: np.ndarray | None, common: bool, by_quartiles: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale of `Standardize.fit` or `robust` in NumPy: for a table that is not worth compiling for."""
    return _middle_and_scale(np, x, weight, common, by_quartiles)


def _middle_and_scale(xp: Any, x: Any, weight: Any, common: Any, by_quartiles: Any) -> tuple[Any, Any]:
    # Divided by the largest value first, so that no square overflows or vanishes; the mean is taken twice, the second
    # time of what the first has left, so that it keeps its digits far from the origin.
    size = xp.abs(x).max(axis=0)
    unit = xp.where(size > 0, size, 1)
    y = x / unit[None]
    share = None if weight is None else weight[:, None] / weight.sum()

    def average(y: Any) -> Any:
        return y.mean(axis=0) if share is None else (share * y).sum(axis=0)

    first = average(y)
    mean = first + average(y - first[None])
    deviation = xp.sqrt(average((y - mean[None]) ** 2))
    varies = deviation > CONSTANT * xp.finfo(x.dtype).eps * xp.abs(mean)
    low, middle, high = _quantiles(xp, x, weight, (0.25, 0.5, 0.75))
    spread = deviation * unit
    quartiles = (high - low) / NORMAL_RANGE
    spread = xp.where(by_quartiles & (quartiles > 0), quartiles, spread)
    largest = xp.where(varies, spread, 0).max()
    pooled = largest * xp.sqrt((xp.where(varies, spread / xp.where(largest > 0, largest, 1), 0) ** 2).mean())
    own = xp.where(varies, spread, 1)
    shared = xp.where(varies.any(), pooled, 1)
    return xp.where(by_quartiles, middle, mean * unit), xp.where(common, shared, own)


def _quantiles(xp: Any, x: Any, weight: Any, q: tuple[float, ...]) -> list[Any]:
    """Of rows that count so often: of w copies of each where these are whole numbers, and of as many as there are rows
    in all where they are not."""
    if weight is None:
        return list(xp.quantile(x, xp.array(q, x.dtype), axis=0))
    n = x.shape[0]
    whole = (weight == xp.round(weight)).all()
    copies = xp.where(whole, weight, weight * (n / weight.sum()))
    order = xp.argsort(x, axis=0)
    values, ends = xp.take_along_axis(x, order, axis=0), xp.cumsum(copies[order], axis=0)

    def at(place: Any) -> Any:
        index = xp.minimum((ends <= place).sum(axis=0), n - 1)
        return xp.take_along_axis(values, index[None], axis=0)[0]

    found = []
    for share in q:
        place = (copies.sum() - 1) * share
        below = xp.floor(place)
        found.append(at(below) + (place - below) * (at(below + 1) - at(below)))
    return found

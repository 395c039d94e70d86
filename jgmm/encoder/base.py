"""The contract of an encoder: an affine map x -> z, of what the data are to what a mixture models or a flow runs in.

Some directions of x may be no codes; they are the residual, standard normal, so that a density of codes remains one of
x. An encoder is a pytree whose arrays are its leaves. One of your own says `name`, `n_codes`, `encode`, `decode`, and
`fit` if it is to be fitted by name; the rest follows from those, at the price of a dense Jacobian.
"""

import abc
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance
from jgmm.errors import InputError
from jgmm.mixture import GMM


class Encoder(abc.ABC):
    """An affine map between features x [N, P] and codes z [N, D]."""

    # What the encoder is called, in the registry and in checkpoints.
    name: ClassVar[str]
    # The initializer that suits its codes, in `jgmm.registry.INITIALIZERS`.
    initializer: ClassVar[str] = "kmeans"

    if TYPE_CHECKING:  # a field of some encoders, a property of others

        @property
        def n_codes(self) -> int:
            """The number of codes."""
            ...

    @abc.abstractmethod
    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
        """The codes of x."""

    @abc.abstractmethod
    def decode(self, z: Float[Array, "n d"], residual: Float[Array, "n q"]) -> Float[Array, "n p"]:
        """The x with these codes and residual coordinates."""

    # What follows has a default, which an encoder overrides where it can do better.

    @classmethod
    def fit(cls, x: Float[Array, "n p"]) -> "Encoder":
        """The encoder of the rows of x. Raises InputError for an encoder that is made in another way."""
        raise InputError(f"{cls.__name__} cannot be fitted to rows: pass one that is made already.")

    @property
    def n_residual(self) -> int:
        """The number of directions beside the codes, standard normal when decoded."""
        return 0

    @property
    def has_density(self) -> bool:
        """Whether the map is invertible, so that a density of codes is one of x."""
        return True

    def residual(self, x: Float[Array, "n p"]) -> Float[Array, "n q"]:
        """The whitened coordinates of x in the directions beside the codes."""
        return x[:, :0]

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a m"]:
        """∂x_a / ∂(codes, residual) of some features of x: the rows that decode them."""
        units = jnp.eye(self.n_codes + self.n_residual)
        codes, rest = units[:, : self.n_codes], units[:, self.n_codes :]
        return (self.decode(codes, rest) - self.decode(codes * 0, rest * 0))[:, features].T

    def log_det(self) -> Float[Array, ""] | float:
        """log |∂z/∂x|, nats. Meaningful only with a density."""
        return -jnp.linalg.slogdet(self.jacobian(jnp.arange(self.n_codes + self.n_residual)))[1]

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        """The variance of every feature of x when codes have these covariances, with what the residual adds."""
        p = self.decode(jnp.zeros((1, self.n_codes)), jnp.zeros((1, self.n_residual))).shape[1]
        a = self.jacobian(jnp.arange(p))
        codes, rest = a[:, : self.n_codes], a[:, self.n_codes :]
        return covariance.image_variance(codes) + (rest**2).sum(axis=1)[None]

    def code_variances(self) -> Float[Array, " d"]:
        """How much a unit of each code is worth in x: the metric in which distances of codes are those of x."""
        return jnp.ones(self.n_codes)

    def encode_mixture(self, gmm: GMM) -> GMM | None:
        """The mixture of codes when x has this one, where it is of the same family; else None."""
        return None

    def decode_mixture(self, gmm: GMM) -> GMM | None:
        """The mixture of x when codes have this one, where it is of the same family; else None."""
        return None


@jax.jit
def encode_with_residual(encoder: Encoder, x: Float[Array, "n p"]) -> tuple[Array, Array]:
    """The codes of x, and the log-density of its residual coordinates, nats a row."""
    r = encoder.residual(x)
    log_residual = -0.5 * (r**2 + jnp.log(2 * jnp.pi)).sum(axis=1)
    return encoder.encode(x), log_residual


def decode_means(encoder: Encoder, gmm: GMM) -> Float[Array, "k p"]:
    """The means of the components in x."""
    return encoder.decode(gmm.means, jnp.zeros((gmm.k, encoder.n_residual), gmm.means.dtype))

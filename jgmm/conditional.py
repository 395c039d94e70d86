"""Conditional mixtures p(x | c): a network that maps contexts to mixtures (Bishop, Mixture density networks, 1994).

A mixture is written as a vector of real numbers, every one of them allowed, which is what networks make and gradients
change:

    [logits of the weights (K), means (K D), raw covariances (K m, or m where all components share one)]

Covariances as `Covariance.unconstrained` writes them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.base import Covariance, Family, blank_of, identity_of
from jgmm.covariance.families import family_of, named
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.initializers import centers
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import from_centers
from jgmm.errors import check, check_count, check_number
from jgmm.mixture import GMM, over_batch
from jgmm.numerics.arguments import check_kind
from jgmm.numerics.typing import ArrayLike
from jgmm.registry import INITIALIZERS

# What clustering leaves of the last layer, as in zuko: the mixtures start near the clusters, whatever the context.
LEFT_OF_KERNEL = 1e-2
# No parameter counts as larger than this: what a network says of contexts far from all data stays finite.
LARGEST = 1e12


def to_vector(gmm: GMM, epsilon: float = 0.0) -> Float[Array, " p"]:
    """The vector of a mixture. `epsilon` is what `from_vector` adds to every scale."""
    return jnp.concatenate([gmm.log_weights, gmm.means.ravel(), gmm.covariance.unconstrained(epsilon).ravel()])


def from_vector(
    k: int, d: int, covariance: Covariance, epsilon: float = 0.0
) -> tuple[int, Callable[[Float[Array, " p"]], GMM]]:
    """How many numbers make a mixture, and vector -> mixture. Of `covariance` the structure is read, as shapes."""
    rows, m = jax.eval_shape(lambda c: c.unconstrained(epsilon), covariance).shape

    def make(vector: Float[Array, " p"]) -> GMM:
        vector = jnp.clip(vector, -LARGEST, LARGEST)
        logits, means, raw = jnp.split(vector, [k, k + k * d])
        made = covariance.constrain(raw.reshape(rows, m), epsilon)
        return GMM(jax.nn.log_softmax(logits), means.reshape(k, d), made)

    return k + k * d + rows * m, make


class ConditionalGMM(nnx.Module):
    """p(x | c) = Σ_k w_k(c) N(x | μ_k(c), Σ_k(c)); without a context, a mixture whose parameters can be trained.

        vector = bias + network(c),     mixture = from_vector(vector)

    Scales are exp(raw) + ε, raw cut at ±30; nothing else is larger than 1e12, contexts included, so that
    mixtures and their densities stay finite for any finite context. `model(c)` is a `GMM` of the batch shape of the
    contexts; train it with `jgmm.fit_gradient`, keep it with `jgmm.save`.

    Args:
        features: D, the number of features of x.
        context: C, the number of context features; 0 for an unconditional mixture.
        components: K.
        covariance_type: "full", "diagonal" or "spherical"; also any family of `jgmm.registry.COVARIANCES`.
        tied: Whether all components share one covariance.
        epsilon: Added to every scale: standard deviations, or the diagonal of Cholesky factors.
        hidden_features: The widths of the hidden layers.
        activation: Applied after each of them.
        param_dtype: Of the parameters.
        rngs: Random numbers of the first parameters: means from N(0, 1), weights equal, scales 1.
    Raises:
        InputError: For numbers out of range and unknown covariance types.

    >>> import jax, jgmm
    >>> from flax import nnx
    >>> model = jgmm.ConditionalGMM(features=1, context=2, components=3, rngs=nnx.Rngs(0))
    >>> model(jax.numpy.zeros((5, 2)))
    GMM(k=3, d=1, covariance='full', dtype=float32, batch_shape=(5,))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        components: int = 2,
        covariance_type: Family = "full",
        tied: bool = False,
        epsilon: float = 1e-6,
        hidden_features: Sequence[int] = (64, 64),
        activation: Callable[[Array], Array] = nnx.relu,
        *,
        param_dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = tuple(hidden_features)
        features, context = check_count("features", features), check_count("context", context, least=0)
        components = check_count("components", components)
        check_number("epsilon", epsilon, least=0)
        hidden = tuple(check_count("hidden_features", width) for width in hidden)
        self.features, self.context, self.components = features, context, components
        self.covariance_type = named(covariance_type, tied)
        self.epsilon = epsilon
        self.hidden_features = hidden
        self.activation = activation
        size, _ = from_vector(components, features, self._structure())
        sizes = [context, *hidden] if context else []
        self.hidden = nnx.List(
            nnx.Linear(m, n, param_dtype=param_dtype, rngs=rngs) for m, n in zip(sizes, sizes[1:], strict=False)
        )
        self.last = nnx.Linear(sizes[-1], size, use_bias=False, param_dtype=param_dtype, rngs=rngs) if context else None
        means = jax.random.normal(rngs.params(), (components * features,), param_dtype)
        bias = jnp.zeros(size, param_dtype).at[components : components * (1 + features)].set(means)
        self.bias = nnx.Param(bias)

    @classmethod
    def of(cls, gmm: GMM, epsilon: float = 1e-6) -> "ConditionalGMM":
        """A mixture as an unconditional model. Scales below ε become ε. Raises InputError for anything else."""
        check_kind("gmm", gmm, GMM, "a jgmm.GMM")
        family, dtype = family_of(gmm.covariance, gmm.k, gmm.d), gmm.means.dtype
        model = cls(gmm.d, 0, gmm.k, family, epsilon=epsilon, param_dtype=dtype, rngs=nnx.Rngs(0))
        model.bias[...] = to_vector(gmm, epsilon)
        return model

    def __call__(self, context: ArrayLike | None = None) -> GMM:
        """The mixtures of contexts of shape (*B, C): a GMM of batch shape B; without contexts, one mixture.

        Raises:
            InputError: For a missing context, one where none is meant, a wrong width, and values not finite.
        """
        known = None if context is None else jnp.asarray(context)
        self._check_context(known)
        _, make = from_vector(self.components, self.features, self._structure(), self.epsilon)
        if known is None or self.last is None:
            return make(self.bias[...])
        h = jnp.clip(known.astype(self.bias[...].dtype), -LARGEST, LARGEST)
        for layer in self.hidden:
            h = self.activation(layer(h))
        vector = self.last(h) + self.bias[...][(None,) * (h.ndim - 1)]
        return over_batch(make, h.ndim - 1)(vector)

    def initialize(self, key: PRNGKeyArray, x: Float[Array, "n d"], strategy: Any = "kmeans") -> None:
        """Start from clusters of the features x [N, D], whatever the context: the bias becomes the mixture of the
        clusters, and the last layer is made faint, as in zuko.

        Args:
            key: A JAX random key.
            x: The features.
            strategy: "random", "kmeans" or "kmeans++" (`jgmm.registry.INITIALIZERS`), or a function.
        Raises:
            InputError: For an unknown strategy, a wrong width, fewer rows than components, and values not finite.
        """
        INITIALIZERS.resolve(strategy)
        x = jnp.asarray(x, self.bias[...].dtype)
        n = x.shape[0] if x.ndim else 0
        check(x.ndim == 2 and x.shape[1] == self.features, f"expected x of shape (n, {self.features}), got {x.shape}.")
        check(
            n >= self.components,
            f"{n} rows are too few for {self.components} components: bring more data or lower components.",
        )
        check(bool(jnp.isfinite(x).all()), "x contains NaN or infinite values: remove those rows first.")
        ones = jnp.ones(self.features, x.dtype)
        check(bool((x != x[:1]).any()), "x is constant: every row is the same, there are no clusters.")
        means = centers(key, x, self.components, strategy, ones)
        # A cluster of a single row has no variance: it is given a thousandth of that of the data.
        prior, floor = as_arrays(Prior(strength=1e-3, variance=x.var()), Floor(absolute=1e-6 * x.var()), x.dtype)
        identity = identity_of(self.covariance_type)
        gmm = from_centers(RowsInMemory(x), means, ones, prior, floor, identity=identity)
        # A cluster without rows keeps the weight of one, and with it a gradient.
        vector = to_vector(gmm, self.epsilon)
        self.bias[...] = vector.at[: self.components].max(-jnp.log(jnp.asarray(n, x.dtype)))
        if self.last is not None:
            self.last.kernel[...] = LEFT_OF_KERNEL * self.last.kernel[...]

    def _structure(self) -> Covariance:
        return blank_of(self.covariance_type, self.components, self.features)

    def _check_context(self, context: Array | None) -> None:
        if context is None:
            check(self.context == 0, f"expected a context of shape (..., {self.context}), got none.")
            return
        check(self.context > 0, f"this mixture has no context (context=0), got one of shape {context.shape}.")
        fits = context.ndim >= 1 and context.shape[-1] == self.context
        check(fits, f"expected a context of shape (..., {self.context}), got {context.shape}.")
        if not isinstance(context, jax.core.Tracer):
            check(np.isfinite(context).all(), "the context contains NaN or infinite values.")

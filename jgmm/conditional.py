"""Conditional mixtures p(x | c): a network that maps contexts to mixtures (Bishop, Mixture density networks, 1994)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm import em, init
from jgmm.checks import check
from jgmm.covariance.base import Prior
from jgmm.distribution import over_batch
from jgmm.mixture import GMM, covariance_name
from jgmm.tables import COVARIANCES, INITIALISERS
from jgmm.unconstrained import LARGEST, flatten, unflatten

# What clustering leaves of the last layer, as in zuko: the mixtures start near the clusters, whatever the context.
LEFT_OF_KERNEL = 1e-2


class ConditionalGMM(nnx.Module):
    """p(x | c) = Σ_k w_k(c) N(x | μ_k(c), Σ_k(c)); without a context, a mixture whose parameters can be trained.

        vector = bias + network(c),     mixture = unflatten(vector)        (`jgmm.unconstrained`)

    Scales are exp(raw) + ε, raw cut at ±30; nothing else is larger than 1e12, contexts included, so that
    mixtures and their densities stay finite for any finite context. `model(c)` is a `GMM` to be used with
    `jgmm.distribution`; train it with `jgmm.fit_gradient`.

    Arguments:
        features: D, the number of features of x.
        context: C, the number of context features; 0 for an unconditional mixture.
        components: K.
        covariance_type: "full", "diagonal" or "spherical"; also any name in `jgmm.tables.COVARIANCES`.
        tied: whether all components share one covariance.
        epsilon: added to every scale: standard deviations, or the diagonal of Cholesky factors.
        hidden_features: widths of the hidden layers.
        activation: applied after each of them.
        param_dtype: of the parameters.
        rngs: random numbers of the first parameters: means from N(0, 1), weights equal, scales 1.
    Raises InputError for numbers out of range and unknown covariance types.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        components: int = 2,
        covariance_type: str = "full",
        tied: bool = False,
        epsilon: float = 1e-6,
        hidden_features: Sequence[int] = (64, 64),
        activation: Callable[[Array], Array] = nnx.relu,
        *,
        param_dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = tuple(hidden_features)
        check(features >= 1, f"features must be at least 1, got {features}.")
        check(components >= 1, f"components must be at least 1, got {components}.")
        check(context >= 0, f"context must be at least 0, got {context}.")
        check(epsilon >= 0, f"epsilon must be at least 0, got {epsilon}.")
        check(all(h >= 1 for h in hidden), f"hidden_features must be at least 1 each, got {hidden}.")
        self.features, self.context, self.components = features, context, components
        name = COVARIANCES.canonical(covariance_type)
        self.covariance_type = COVARIANCES.canonical(f"tied-{name}") if tied else name
        self.epsilon = epsilon
        self.activation = activation
        size, _ = unflatten(components, features, self.covariance_type)
        sizes = [context, *hidden] if context else []
        self.hidden = nnx.List(
            nnx.Linear(m, n, param_dtype=param_dtype, rngs=rngs) for m, n in zip(sizes, sizes[1:], strict=False)
        )
        self.last = nnx.List(
            [nnx.Linear(sizes[-1], size, use_bias=False, param_dtype=param_dtype, rngs=rngs)] if context else []
        )
        means = jax.random.normal(rngs.params(), (components * features,), param_dtype)
        bias = jnp.zeros(size, param_dtype).at[components : components * (1 + features)].set(means)
        self.bias = nnx.Param(bias)

    @classmethod
    def of(cls, gmm: GMM, epsilon: float = 1e-6) -> "ConditionalGMM":
        """A mixture as an unconditional model. Scales below ε become ε."""
        model = cls(
            gmm.d, 0, gmm.k, covariance_name(gmm), epsilon=epsilon, param_dtype=gmm.means.dtype, rngs=nnx.Rngs(0)
        )
        model.bias[...] = flatten(gmm, epsilon)
        return model

    def __call__(self, context: Float[Array, "*b c"] | None = None) -> GMM:
        """The mixtures of contexts of shape (*B, C): a GMM of batch shape B; without contexts, one mixture.

        Raises InputError for a missing context, one where none is meant, a wrong width, and values not finite.
        """
        context = None if context is None else jnp.asarray(context)
        self._check_context(context)
        _, make = unflatten(self.components, self.features, self.covariance_type, self.epsilon)
        if context is None:
            return make(self.bias[...])
        h = jnp.clip(context.astype(self.bias[...].dtype), -LARGEST, LARGEST)
        for layer in self.hidden:
            h = self.activation(layer(h))
        vector = self.last[0](h) + self.bias[...][(None,) * (h.ndim - 1)]
        return over_batch(make, h.ndim - 1)(vector)

    def initialize(self, key: PRNGKeyArray, x: Float[Array, "n d"], strategy: str = "kmeans") -> None:
        """Start from clusters of the features x [N, D], whatever the context: the bias becomes the mixture of the
        clusters, and the last layer is made faint, as in zuko.

        strategy: "random", "kmeans" or "kmeans++" (`jgmm.tables.INITIALISERS`). Raises InputError for an unknown one,
        a wrong width, fewer rows than components, and values that are not finite.
        """
        method = INITIALISERS.canonical(strategy)
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
        centres = init.centres(key, x, self.components, method, ones)
        # A cluster of a single row has no variance: it is given a thousandth of that of the data.
        prior = jax.tree.map(lambda v: jnp.asarray(v, x.dtype), Prior(1e-3, x.var(), 1e-6 * x.var()))
        gmm = em.from_centres(x, centres, ones, prior, covariance_type=self.covariance_type)
        # A cluster without rows keeps the weight of one, and with it a gradient.
        vector = flatten(gmm, self.epsilon)
        self.bias[...] = vector.at[: self.components].max(-jnp.log(jnp.asarray(n, x.dtype)))
        for layer in self.last:
            layer.kernel[...] = LEFT_OF_KERNEL * layer.kernel[...]

    def _check_context(self, context: Array | None) -> None:
        if context is None:
            check(self.context == 0, f"expected a context of shape (..., {self.context}), got none.")
            return
        check(self.context > 0, f"this mixture has no context (context=0), got one of shape {context.shape}.")
        fits = context.ndim >= 1 and context.shape[-1] == self.context
        check(fits, f"expected a context of shape (..., {self.context}), got {context.shape}.")
        if not isinstance(context, jax.core.Tracer):
            check(np.isfinite(context).all(), "the context contains NaN or infinite values.")

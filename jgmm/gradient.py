"""Maximum likelihood by stochastic gradients, for mixtures and conditional mixtures alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.conditional import ConditionalGMM
from jgmm.errors import InputError, check, check_count, check_share, short
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats, as_key, check_kind
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.typing import ArrayLike

M = TypeVar("M", GMM, ConditionalGMM)
# Rows of contexts and features, or features alone.
Rows = tuple[Array | None, Array]
ADAM = optax.adam(3e-3)


@dataclass(frozen=True, eq=False)
class GradientFit(Generic[M]):
    """A mixture fitted by gradients.

    Attributes:
        model: of the kind that was given, as it was after the best epoch.
        log_likelihoods: mean nats a row of every epoch's batches, while they were trained on.
        held_out: mean nats a row of the rows held out, after every epoch; empty where there are none.
        best: the epoch of `model`, from 0: the best on the rows held out, or else the last.
    """

    model: M
    log_likelihoods: list[float]
    held_out: list[float]
    best: int

    def __repr__(self) -> str:
        name = type(self.model).__name__
        score = self.held_out[self.best] if self.held_out else self.log_likelihoods[self.best]
        judged = "held_out" if self.held_out else "log_likelihood"
        return f"GradientFit({name}, {judged}={score:.4g}, best={self.best}, epochs={len(self.log_likelihoods)})"


def fit_gradient(
    key: PRNGKeyArray,
    model: M,
    x: ArrayLike,
    context: ArrayLike | None = None,
    *,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
    epochs: int = 100,
    holdout: float = 0.1,
    patience: int | None = 10,
) -> GradientFit[M]:
    """Maximize Σ_n log p(x_n | c_n) over the unconstrained parameters of a mixture (`jgmm.conditional`).

    An epoch goes once through the training rows in a new random order, in batches of one size; the rows left over at
    its end, fewer than a batch, wait for the next. The model given is not changed.

    Args:
        model: a `GMM`, from clustering or EM, or a `ConditionalGMM`.
        x, context: features and, for a conditional mixture, contexts, row by row.
        optimizer: any of optax. It sees the negative log-likelihood, mean nats a row of the batch.
        batch_size: rows a step; at most all of them.
        holdout: share of the rows held out of training and evaluated after every epoch; 0 for none.
        patience: training ends when so many epochs have not improved the rows held out; None never ends it early.
    Raises:
        InputError: For wrong shapes, NaN or infinite values, contexts where none are meant or none where they are, no
            rows to train on or to hold out, and when the likelihood ceases to be finite.

    >>> import jax, jgmm
    >>> x = jax.random.normal(jax.random.key(0), (500, 2))
    >>> start = jgmm.GMM.from_parameters([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0], "spherical")
    >>> found = jgmm.fit_gradient(jax.random.key(1), start, x, epochs=3)
    >>> found.model.k, len(found.held_out)
    (2, 3)
    """
    key = as_key(key)
    _check_options(model, optimizer, batch_size, epochs, holdout, patience)
    x, context = as_floats("x", x), None if context is None else as_floats("context", context)
    module = model if isinstance(model, ConditionalGMM) else ConditionalGMM.of(_single(model))
    for_split, for_epochs = jax.random.split(key)
    train, out = _split(for_split, _check_rows(module, x, context), holdout)

    structure, parameters = nnx.split(module)
    state = optimizer.init(parameters)
    best, kept, history, held_out = 0, parameters, [], []
    for epoch, batches in enumerate(_epochs(for_epochs, train[1].shape[0], batch_size, epochs)):
        parameters, state, mean = _epoch(structure, parameters, state, train, batches, optimizer)
        history.append(_finite(float(mean), epoch))
        if out is not None:
            held_out.append(_finite(float(_mean_log_prob(structure, parameters, out)), epoch))
        if out is None or held_out[-1] >= max(held_out):
            best, kept = epoch, parameters
        elif patience is not None and epoch - best >= patience:
            break
    fitted: Any = nnx.merge(structure, kept)
    return GradientFit(fitted if isinstance(model, ConditionalGMM) else fitted(), history, held_out, best)


def _split(key: PRNGKeyArray, rows: Rows, holdout: float) -> tuple[Rows, Rows | None]:
    """The rows to train on and those held out, if any. Raises InputError where either would be empty."""
    n = rows[1].shape[0]
    n_out = round(holdout * n)
    check(holdout == 0 or n_out > 0, f"holdout {holdout} of {n} rows is none: raise it, or pass 0.")
    check(n > n_out, f"{n} rows leave none to train on.")
    order = jax.random.permutation(key, n)
    return _take(rows, order[n_out:]), _take(rows, order[:n_out]) if n_out else None


def _epochs(key: PRNGKeyArray, n: int, batch_size: int, epochs: int) -> Iterator[Int[Array, "steps batch"]]:
    """Which rows the batches of every epoch have. On the host: on a CPU, JAX takes longer to shuffle than to train."""
    seed: list[int] = np.asarray(jax.random.key_data(key)).tolist()
    size = min(batch_size, n)
    steps = n // size
    for epoch in range(epochs):
        shuffled = np.random.default_rng([*seed, epoch]).permutation(n)[: steps * size]
        yield jnp.asarray(shuffled.reshape(steps, size))


def _take(rows: Rows, index: Array) -> Rows:
    return jax.tree.map(lambda a: a[index], rows)


@partial(jax.jit, static_argnames=("structure", "optimizer"))
def _epoch(
    structure: nnx.GraphDef,
    parameters: nnx.State,
    state: optax.OptState,
    rows: Rows,
    batches: Int[Array, "steps batch"],
    optimizer: optax.GradientTransformation,
) -> tuple[nnx.State, optax.OptState, Array]:
    update = optax.with_extra_args_support(optimizer).update

    def step(carry: Any, index: Any) -> tuple[Any, Array]:
        parameters, state = carry
        batch = _take(rows, index)

        def loss(parameters: nnx.State) -> Array:
            return -_log_prob(structure, parameters, batch).mean()

        value, gradient = jax.value_and_grad(loss)(parameters)
        # The last three are for line searches.
        updates, state = update(gradient, state, parameters, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(parameters, updates), state), -value

    (parameters, state), values = jax.lax.scan(step, (parameters, state), batches)
    return parameters, state, values.mean()


def _log_prob(structure: nnx.GraphDef, parameters: nnx.State, rows: Rows) -> Float[Array, " n"]:
    context, x = rows
    return nnx.merge(structure, parameters)(context).log_prob(x)


@partial(jax.jit, static_argnames="structure")
def _mean_log_prob(structure: nnx.GraphDef, parameters: nnx.State, rows: Rows) -> Array:
    return map_chunks(lambda part: _log_prob(structure, parameters, part), rows).mean()


def _check_options(model: Any, optimizer: Any, batch_size: Any, epochs: Any, holdout: Any, patience: Any) -> None:
    check(
        hasattr(optimizer, "init") and hasattr(optimizer, "update"),
        f"expected an optimizer of optax, such as optax.adam(1e-3), got {short(optimizer)}.",
    )
    check_kind("model", model, (GMM, ConditionalGMM), "a jgmm.GMM or a jgmm.ConditionalGMM")
    check_share("holdout", holdout)
    check_count("batch_size", batch_size)
    check_count("epochs", epochs)
    if patience is not None:
        check_count("patience", patience)


def _single(gmm: GMM) -> GMM:
    batch = gmm.batch_shape
    check(batch == (), f"one mixture is fitted at a time, got a batch of shape {batch}: fit them in turn.")
    finite = bool(jnp.isfinite(gmm.log_weights).all())
    check(finite, "a component of weight zero has no gradient: leave it out of the mixture.")
    return gmm


def _check_rows(module: ConditionalGMM, x: Array, context: Array | None) -> Rows:
    """Rows in the dtype of the model. Raises InputError for shapes that do not fit it."""
    d, c, dtype = module.features, module.context, module.bias[...].dtype
    check(x.ndim == 2 and x.shape[1] == d, f"expected x of shape (n, {d}), got {x.shape}.")
    if context is None:
        check(c == 0, f"this mixture is conditional: expected a context of shape ({x.shape[0]}, {c}), got none.")
        return None, jnp.asarray(x, dtype)
    check(c > 0, f"this mixture has no context, got one of shape {context.shape}.")
    fits = context.shape == (x.shape[0], c)
    check(fits, f"expected a context of shape ({x.shape[0]}, {c}), a row for every row of x, got {context.shape}.")
    return jnp.asarray(context, dtype), jnp.asarray(x, dtype)


def _finite(value: float, epoch: int) -> float:
    if not np.isfinite(value):
        raise InputError(
            f"the log-likelihood is {value} in epoch {epoch + 1}: lower the learning rate, rescale the data to a "
            "deviation near 1, or raise epsilon."
        )
    return value

"""Stepwise EM: rows come in batches, each is seen once, and every batch improves the mixture (Cappé and Moulines,
On-line expectation-maximization algorithm for latent data models, Journal of the Royal Statistical Society B 71, 2009).

The statistics of the E-step, as means over rows, are a running average,

    s ← (1 − γ_t) s + γ_t s(batch t),    γ_t = (t + 1)^(−power)

(in a batch of fewer rows than the mean one, less of it) and every M-step is that of s. With power 1 all batches would
count alike, those under the mixtures of the beginning as well; 0.5 to 1 forgets them. Before rows are averaged in,
statistics about the old means become ones about the new.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.base import Covariance, Family, blank_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.data.streams import Stream
from jgmm.em.fitting import default_floor, encoder_of
from jgmm.em.loop import EMState, check_enough, check_finite, check_prior, run_em
from jgmm.em.rows import RowsInMemory, on_mesh
from jgmm.em.statistics import Statistics
from jgmm.em.steps import e_step, m_step
from jgmm.em.tables import as_rows, weighed
from jgmm.encoder.base import Encoder
from jgmm.encoder.identity import Identity
from jgmm.encoder.standardize import robust
from jgmm.errors import check, check_count, check_number
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_key, check_kind
from jgmm.numerics.processes import of_all, over_processes
from jgmm.numerics.pytree import pytree
from jgmm.numerics.summation import CompensatedSum
from jgmm.numerics.typing import ArrayLike

# Iterations of EM on the first batch.
BEGINNING = 20


@pytree
class Means:
    """The statistics of an E-step (`jgmm.em.statistics`), as means over rows."""

    counts: Float[Array, " k"]
    first: Float[Array, "k d"]
    second: Array


@pytree
class Stepwise:
    """A mixture in the course of stepwise EM: what `jgmm.partial_fit` returns and goes on with; `jgmm.save` keeps it.

    Attributes:
        z_gmm: The mixture of z = encode(x).
        encoder: The units of features, those of the first batch.
        means: The running average of statistics, about the means of `z_gmm`.
        prior: In units of z.
        floor: In units of z.
        seen: How many rows there were.
        steps: How many batches.
        log_likelihood: That of the last batch under the mixture before it, mean nats a row of x.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> jgmm.partial_fit(None, load_iris().data, k=3)
    Stepwise(GMM(k=3, d=4, covariance='diag', dtype=float32))
    """

    z_gmm: GMM
    encoder: Encoder
    means: Means
    prior: Prior
    floor: Floor
    seen: Float[Array, ""]
    steps: Float[Array, ""]
    log_likelihood: Float[Array, ""]

    @property
    def gmm(self) -> GMM:
        """The mixture of x."""
        found: Any = self.encoder.decode_mixture(self.z_gmm)  # in units that leave the family as it is
        return found

    def __repr__(self) -> str:
        return f"Stepwise({self.z_gmm!r})"


def partial_fit(
    state: Stepwise | None,
    x: ArrayLike,
    k: int | None = None,
    *,
    key: PRNGKeyArray | int | None = None,
    covariance_type: Family | None = None,
    init: Any = None,
    prior: Prior | None = None,
    floor: Floor | None = None,
    sample_weight: ArrayLike | None = None,
    power: float = 0.7,
) -> Stepwise:
    """A batch of rows more. The first one, where `state` is None, tells the units of features (`robust`) and where EM
    starts: it should hold many rows of every kind, and the others rows in any order.

    Args:
        state: What the last call returned; None to begin.
        x: A batch of rows [N, D].
        k: The number of components, 10 by default; for the first batch only, as `key` (0 by default), `covariance_type`
            ("diag"), `init` ("kmeans"), `prior` and `floor`, which are those of `jgmm.fit_em`.
        sample_weight: How often every row counts [N].
        power: How fast earlier batches are forgotten: from 0, at once, to 1, never.
    Raises:
        InputError: As `jgmm.fit_em`, for a batch of another width, options of the first batch in a later one, and
            families whose statistics depend on the mixture they were taken under (low-rank).

    >>> import jgmm
    >>> from sklearn.datasets import load_digits
    >>> x, state = load_digits().data, None
    >>> for i in range(0, 1797, 600):
    ...     state = jgmm.partial_fit(state, x[i : i + 600], k=5 if state is None else None)
    >>> state.gmm, float(state.seen)
    (GMM(k=5, d=64, covariance='diag', dtype=float32), 1797.0)
    """
    check_number("power", power, least=0)
    check(power <= 1, f"power must be at most 1, got {power}.")
    rows = as_rows(x)
    rows, weight = weighed(rows, sample_weight)
    if state is None:
        key = as_key(0 if key is None else key)
        family, init = covariance_type or "diag", "kmeans" if init is None else init
        return _begun(key, rows, weight, 10 if k is None else k, family, init, prior, floor)
    check_kind("state", state, Stepwise, "what jgmm.partial_fit returned, or None")
    first = {"k": k, "key": key, "covariance_type": covariance_type, "init": init, "prior": prior, "floor": floor}
    given = [name for name, value in first.items() if value is not None]
    check(not given, f"{', '.join(given)} are those of the first batch: leave them out.")
    d = state.z_gmm.d
    check(rows.shape[1] == d, f"expected rows of {d} features as in the first batch, got {rows.shape[1]}.")
    check(len(rows) > 0, "the batch is empty.")
    rows = rows.astype(state.z_gmm.dtype)
    found = _advanced(state, RowsInMemory(rows, weight), jnp.asarray(power, rows.dtype))
    leaves = (found.log_likelihood, found.z_gmm.means, found.z_gmm.covariance)
    check_finite(all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(leaves)), rows.dtype)
    return found


def _begun(
    key: PRNGKeyArray,
    rows: Float[Array, "n d"],
    weight: Float[Array, " n"] | None,
    k: int,
    family: Family,
    init: Any,
    prior: Prior | None,
    floor: Floor | None,
) -> Stepwise:
    check_enough(rows.shape[0], check_count("k", k))
    blank = blank_of(family, k, rows.shape[1], rows.dtype)
    _check_additive(blank)
    encoder = encoder_of(robust, {blank.scales}, rows, weight)
    floor = default_floor(rows.dtype == jnp.float64) if floor is None else floor
    prior, floor = as_arrays(prior, floor, rows.dtype)
    check_prior(prior, k, rows.shape[1])
    z = encoder.encode(rows)
    gmm = run_em(
        key,
        z,
        k=k,
        covariance_type=family,
        init=init,
        sample_weight=weight,
        prior=prior,
        floor=floor,
        max_iter=BEGINNING,
    ).gmm
    return _at(gmm, encoder, RowsInMemory(z, weight), prior, floor)


def _at(gmm: GMM, encoder: Encoder, rows: RowsInMemory, prior: Prior, floor: Floor) -> Stepwise:
    """Where stepwise EM stands after a first batch of codes."""
    means, log_likelihood = _means_of(gmm, encoder, rows)
    one = jnp.ones((), rows.dtype)
    return Stepwise(gmm, encoder, means, prior, floor, one * rows.total, one, log_likelihood)


def _check_additive(covariance: Covariance) -> None:
    additive = covariance.additive
    check(additive, f"stepwise EM does not know {covariance.name} covariances: their statistics are of one mixture.")


def run_stepwise(
    key: PRNGKeyArray,
    x: Any,
    weight: np.ndarray | None,
    batch: int,
    *,
    k: int,
    covariance_type: Family,
    prior: Any,
    floor: Floor,
    max_iter: int,
    tol: float,
    callback: Callable[[EMState], None],
    power: float = 0.7,
    **start: Any,
) -> EMState:
    """Stepwise EM in passes over rows as they are, an array or a stream, in batches that come in another order in every
    pass; of several processes, each has its own rows.

    Args:
        weight: How often each row counts; None for once.
        batch: The least number of rows of a batch, of all processes.
        max_iter: The largest number of passes. They end when the mean log-likelihood of a pass, of each batch under
            the mixture before it, changes by less than `tol`.
        callback: Called after every pass with a state like those of `jgmm.em.loop.run_em`.
        start: What `run_em` is asked for on the first batch.
    Raises:
        InputError: As `jgmm.partial_fit`, and for a first batch of fewer rows than k.
    """
    n = len(x)
    lengths = of_all(np.array([n]))
    n_batches = max(1, int(lengths.max()) * jax.process_count() // batch)
    rng, ends = np.random.default_rng(np.ravel(jax.random.key_data(key))), n * np.arange(n_batches + 1) // n_batches
    shuffled = None if isinstance(x, Stream) else np.random.default_rng(rng.integers(2**32)).permutation(n)

    def rows_of(i: int) -> RowsInMemory:
        part: Any = slice(ends[i], ends[i + 1])
        part = part if shuffled is None else np.sort(shuffled[part])
        return on_mesh(np.asarray(x[part]), None if weight is None else weight[part])

    order = rng.permutation(n_batches)
    first = rows_of(int(order[0]))
    options = {"prior": prior, "floor": floor, "k": k, "covariance_type": covariance_type}
    blank = blank_of(covariance_type, k, first.shape[1], first.dtype)
    _check_additive(blank)
    begun = run_em(key, first, **options, **start, max_iter=BEGINNING, tol=tol)
    prior, floor = as_arrays(begun.prior, floor, first.dtype)
    state = _at(begun.gmm, Identity(first.shape[1]), first, prior, floor)
    total = float(lengths.sum()) if weight is None else float(over_processes(weight.sum(dtype=np.float64)))
    history: list[float] = []
    for _ in range(max_iter):
        seen = []
        for i in order:
            rows = rows_of(int(i))
            state = _advanced(state, rows, jnp.asarray(power, rows.dtype), jnp.asarray(total, rows.dtype))
            seen.append(float(state.log_likelihood) * float(rows.total))
            check_finite(np.isfinite(seen[-1]), rows.dtype)
        history.append(sum(seen) / total)
        converged = len(history) > 1 and abs(history[-1] - history[-2]) < tol
        counts = np.asarray(state.means.counts) * total
        found = EMState(
            state.z_gmm, prior=prior, history=history, log_likelihoods=history, counts=counts, converged=converged
        )
        callback(replace(found, history=list(history), log_likelihoods=list(history)))
        if converged:
            break
        order = rng.permutation(n_batches)
    return replace(found, last=True)


@jax.jit
def _means_of(gmm: GMM, encoder: Encoder, rows: RowsInMemory) -> tuple[Means, Float[Array, ""]]:
    """The statistics of a batch as means over its rows, and their log-likelihood, mean nats a row of x."""
    found = e_step(gmm, rows)
    means = Means(*(leaf / rows.total for leaf in (found.counts, found.first, found.second)))
    total = found.log_likelihood
    return means, (total.high + total.low) / rows.total + encoder.log_det()


@jax.jit
def _advanced(
    state: Stepwise, x: RowsInMemory, power: Float[Array, ""], most: Float[Array, ""] | None = None
) -> Stepwise:
    """The next state; rows that come again are no more rows than `most`."""
    gmm, rows = state.z_gmm, x.encoded(state.encoder)
    of_batch, log_likelihood = _means_of(gmm, state.encoder, rows)
    rate, seen = (state.steps + 1) ** -power, state.seen + rows.total
    share = rate * rows.total / (rate * rows.total + (1 - rate) * state.seen / state.steps)
    means = jax.tree.map(lambda old, new: (1 - share) * old + share * new, state.means, of_batch)
    none = jnp.zeros((), x.dtype)
    known = seen if most is None else jnp.minimum(seen, most)
    counts, first, second = (known * leaf for leaf in (means.counts, means.first, means.second))
    sums = Statistics(CompensatedSum(none, none), counts, first, second, none, none)
    new = m_step(gmm, sums, state.prior, state.floor)
    about_new = _about(gmm.covariance, means, new.means - gmm.means)
    return Stepwise(new, state.encoder, about_new, state.prior, state.floor, seen, state.steps + 1, log_likelihood)


def _about(covariance: Covariance, means: Means, shift: Float[Array, "k d"]) -> Means:
    """The same statistics about means that lie `shift` further: of x̄ − μ = a, n a aᵀ becomes n (a − δ)(a − δ)ᵀ."""
    counts = means.counts
    off = means.first / jnp.where(counts > 0, counts, 1)[:, None]
    old, new = (covariance.squares(a, counts) for a in (off, off - shift))
    return Means(counts, means.first - counts[:, None] * shift, means.second - old + new)

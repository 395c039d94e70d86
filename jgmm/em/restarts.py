"""Several starts of EM at once, under `jax.vmap`: for problems so small that one start leaves the machine idle."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.prior import Floor, Prior
from jgmm.em.initializers import beginning
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import em_step, from_beginning
from jgmm.mixture import GMM

# Where it pays on a CPU: all starts together have at most so many responsibilities and parameters.
ELEMENTS = 2**17


def fits(n_init: int, n: int, gmm: GMM) -> bool:
    """Whether so many starts on n rows should be run at once, for mixtures like this one (its leaves may be shapes)."""
    size = n * gmm.k + sum(leaf.size for leaf in jax.tree.leaves(gmm))
    return n_init > 1 and n_init * size <= ELEMENTS and not gmm.covariance.screened


@partial(jax.jit, static_argnames=("k", "identity", "init", "n_init", "max_iter", "tol"))
def best_of(
    key: PRNGKeyArray,
    x: Float[Array, "n d"],
    metric: Float[Array, " d"],
    prior: Prior,
    floor: Floor,
    *,
    k: int,
    identity: Any,
    init: Any,
    n_init: int,
    max_iter: int,
    tol: float,
) -> tuple[GMM, Float[Array, " r"]]:
    """Where the best of n_init runs of EM begins, and the objectives in which all end, mean nats a row: each is run
    until its objective changes by less than tol. Start i is that of `run_em`; lost components are not re-seeded."""
    n, rows = x.shape[0], RowsInMemory(x)

    def begin(i: Array) -> GMM:
        found = beginning(jax.random.fold_in(key, i), x, k, init, metric)
        return from_beginning(rows, rows, found, metric, prior, floor, k=k, identity=identity)

    def advance(gmm: GMM) -> tuple[GMM, Array]:
        step = em_step(gmm, rows, prior, floor)
        return step.gmm, (step.log_likelihood.high + step.log_prior) / n + step.log_likelihood.low / n

    def improve(state: tuple[Array, GMM, Array, Array]) -> tuple[Array, GMM, Array, Array]:
        i, gmm, objective, moving = state
        new, now = jax.vmap(advance)(gmm)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(moving.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return i + 1, jax.tree.map(chosen, new, gmm), chosen(now, objective), moving & ~(jnp.abs(now - objective) < tol)

    start = (jnp.array(0), jax.vmap(begin)(jnp.arange(n_init)), jnp.full(n_init, -jnp.inf, x.dtype))
    moving = jnp.ones(n_init, bool)
    _, _, objective, _ = jax.lax.while_loop(
        lambda state: (state[0] < max_iter) & state[3].any(), improve, (*start, moving)
    )
    return begin(jnp.argmax(jnp.where(jnp.isnan(objective), -jnp.inf, objective))), objective

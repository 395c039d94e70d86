"""Tiles of chosen pairs against sums over a mask."""

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.em.tiles import TILE, fold_tiles, put_values


def test_every_chosen_pair_is_visited_once(rng):
    n = 2 * TILE + 77
    mask = rng.random((4, n)) < np.array([[0.0], [0.01], [0.5], [1.0]])
    mask[1, -1] = mask[2, 0] = True

    @jax.jit
    def visits(mask):
        def add(seen, rows, valid):
            return seen.at[rows].add(valid.astype(jnp.int32))

        return jax.lax.map(lambda chosen: fold_tiles(chosen, add, jnp.zeros(n, jnp.int32)), mask)

    np.testing.assert_array_equal(visits(jnp.asarray(mask)), mask.astype(int))


def test_values_fill_the_chosen_places_only(rng):
    n = TILE + 5
    mask, x = rng.random((3, n)) < 0.3, jnp.asarray(rng.normal(size=n), jnp.float32)
    blank, k = jnp.full((3, n), -jnp.inf), jnp.arange(3)
    fill = jax.jit(lambda m: put_values(lambda rows, k, x: x[rows] * (k + 1), m, blank, k, x))
    expected = np.where(mask, np.asarray(x)[None] * np.array([[1], [2], [3]]), -np.inf)
    np.testing.assert_allclose(fill(jnp.asarray(mask)), expected, rtol=1e-6)

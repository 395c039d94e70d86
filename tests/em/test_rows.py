"""Sums over rows, and the rows of the largest scores, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.em.rows import Largest, RowsInMemory


@pytest.mark.parametrize("chunk_size", [3, 10, 50, 64])
def test_a_sum_counts_every_row_once(chunk_size, rng):
    x = jnp.asarray(rng.integers(-9, 9, size=(50, 4)), jnp.float32)
    rows = RowsInMemory(x)
    assert rows.shape == (50, 4)
    second = jax.jit(lambda rows: rows.sum(lambda x, weight: (x * weight[:, None]).T @ x, chunk_size))(rows)
    np.testing.assert_array_equal(second, x.T @ x)


def test_the_state_of_every_row_is_kept(rng):
    x = jnp.asarray(rng.normal(size=(50, 2)), jnp.float32)
    state = jnp.zeros((1, 50))

    def f(x, weight, state):
        return weight.sum(), state + x[:, 0][None]

    total, seen = jax.jit(lambda s: RowsInMemory(x, asked=20).sum_with_state(f, s, 8))(state)
    assert float(total) == 50
    # A row that two chunks hold has been visited twice.
    visits = np.round(np.asarray(seen[0] / x[:, 0]))
    assert set(visits.tolist()) <= {1.0, 2.0}
    assert (visits == 1).sum() >= 30


@pytest.mark.parametrize(("n", "k", "chunk_size"), [(40, 5, 7), (40, 5, 40), (6, 6, 4), (5, 4, 2)])
def test_the_largest_rows_are_those_of_a_sort(n, k, chunk_size, rng):
    x = jnp.asarray(rng.permutation(n)[:, None] - n / 2, jnp.float32)

    def chunk(rows, weight):
        return Largest.of(k, -rows[:, 0], weight, rows, jnp.arange(len(rows)))

    found = jax.jit(lambda x: RowsInMemory(x).sum(chunk, chunk_size))(x)
    np.testing.assert_array_equal(found.row[:, 0], np.sort(np.ravel(x))[:k])
    assert found.valid.all()
    row, _ = found.nth(jnp.array([0, k + 3]))
    np.testing.assert_array_equal(row[:, 0], np.sort(np.ravel(x))[[0, k - 1]])

"""Passes in chunks against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.numerics.chunking import map_chunks, sum_chunks


@pytest.mark.parametrize("chunk_size", [1, 7, 100, 101, 500])
def test_chunks_give_what_the_whole_gives(chunk_size, rng):
    x = rng.integers(-9, 9, size=(101, 3)).astype(np.float32)
    total = jax.jit(lambda x: sum_chunks(lambda rows, w: (rows * w[:, None]).sum(axis=0), x, chunk_size))(x)
    np.testing.assert_array_equal(total, x.sum(axis=0))
    mapped = jax.jit(lambda x: map_chunks(lambda rows: rows[:, 0] * 2, x, chunk_size))(jnp.asarray(x))
    np.testing.assert_array_equal(mapped, x[:, 0] * 2)

"""Meshes, and work that is cut over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.errors import InputError
from jgmm.numerics.chunking import map_chunks, sum_chunks
from jgmm.numerics.linalg import grouped_matvec
from jgmm.numerics.processes import to_host
from jgmm.numerics.sharding import at, map_components, mesh, mesh_of, n_parts, taken
from jgmm.numerics.summation import CompensatedSum


@pytest.mark.parametrize("asked", ["data=4", "data=4,component=2", "component=2, data=2"])
def test_a_mesh_is_what_was_asked_for(asked):
    shape = dict(mesh_of(asked).shape)
    assert all(f"{axis}={n}" in asked for axis, n in shape.items() if n > 1)
    assert dict(mesh().shape) == {"data": 8, "component": 1}


@pytest.mark.parametrize(
    ("asked", "words"),
    [("data=9", "takes 9 devices, there are 8"), ("rows=2", "is written as"), ("data=0", "must be"), ("", "written")],
)
def test_other_meshes_are_refused(asked, words):
    with pytest.raises(InputError, match=words):
        mesh_of(asked)


def test_meshes_of_other_axes_are_refused():
    with pytest.raises(InputError, match="'data' and 'component'"):
        mesh_of(jax.make_mesh((8,), ("batch",)))


def test_passes_over_rows_are_those_of_one_device(rng):
    x = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)

    def of(part, weight):
        return CompensatedSum.of((part * weight[:, None]).sum(axis=1))

    @jax.jit
    def both(x):
        assert n_parts("data") in (1, 4)
        return sum_chunks(of, x, 5), map_chunks(lambda part: part * 2, x, 5)

    total, twice = both(x)
    with jax.set_mesh(mesh_of("data=4,component=2")):
        there, twice_there = both(jax.device_put(x, jax.sharding.PartitionSpec("data")))
        assert not twice_there.sharding.is_fully_replicated
    assert float(total) == pytest.approx(float(there), rel=1e-6)
    np.testing.assert_array_equal(twice, twice_there)


def test_components_are_read_where_they_are(rng):
    """No collective gathers matrices that are cut over components."""
    matrices = jnp.asarray(rng.normal(size=(8, 5, 5)), jnp.float32)
    group, x = jnp.asarray(rng.integers(8, size=40)), jnp.asarray(rng.normal(size=(40, 5)), jnp.float32)
    index = jnp.asarray(rng.integers(8, size=8))

    @jax.jit
    def f(matrices):
        traces = map_components(lambda m, scale: jnp.trace(m) * scale, matrices, jnp.float32(2))
        return traces, grouped_matvec(matrices, group, x), taken(matrices, index)

    expected = f(matrices)
    with jax.set_mesh(mesh_of("data=2,component=4")):
        cut = jax.device_put(matrices, jax.sharding.PartitionSpec("component"))
        compiled = f.lower(cut).compile()
        assert "all-gather" not in compiled.as_text()
        found = compiled(cut)
        assert to_host(found[2]).shape == (8, 5, 5)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rows_are_taken_from_where_they_are(rng):
    x = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    index = jnp.array([3, 15, 0, 3])
    with jax.set_mesh(mesh_of("data=8")):
        cut = jax.device_put(x, jax.sharding.PartitionSpec("data"))
        np.testing.assert_array_equal(jax.jit(at)(cut, index), x[index])
        np.testing.assert_array_equal(jax.jit(at)(cut, index[0]), x[3])

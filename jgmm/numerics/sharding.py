"""One program on one device, on several, or on several processes.

A mesh has two axes: rows are cut over "data", and components over "component". Under `jax.set_mesh`, passes over rows
(`jgmm.numerics.chunking`) run on all devices at once, every one over its own rows, and what they find is added; loops
over components (`map_components`) run over those that a device has. Without a mesh all of this is what it is on one
device.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jgmm.errors import check, check_count, short
from jgmm.numerics.pytree import Additive

ROWS, COMPONENTS = "data", "component"


def mesh(component: int = 1, data: int | None = None) -> Mesh:
    """The devices of all processes, cut into so many parts; `data` is as many as are left if it is None.

    Raises:
        InputError: If there are not as many devices.

    >>> from jgmm.numerics.sharding import mesh
    >>> dict(mesh(data=1).shape)
    {'data': 1, 'component': 1}
    """
    n = jax.device_count()
    check_count("component", component, most=n)
    data = n // component if data is None else check_count("data", data)
    asked = data * component
    check(1 <= asked <= n, f"a mesh of data={data}, component={component} takes {asked} devices, there are {n}.")
    whole = jax.process_count() == 1 or asked == n
    check(whole, f"a mesh of several processes takes all of their {n} devices, data={data} x component={component}.")
    # A process has parts of the rows that follow each other.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))[:asked]
    return Mesh(np.array(devices).reshape(data, component), (ROWS, COMPONENTS), axis_types=(AxisType.Auto,) * 2)


def mesh_of(asked: Any) -> Mesh:
    """A mesh, or what it is to be cut into, such as "data=4,component=2". Raises InputError for anything else.

    >>> from jgmm.numerics.sharding import mesh_of
    >>> dict(mesh_of("data=1").shape)
    {'data': 1, 'component': 1}
    """
    if isinstance(asked, Mesh):
        known = set(asked.axis_names) <= {ROWS, COMPONENTS} and all(kind == AxisType.Auto for kind in asked.axis_types)
        check(known, f"a mesh has the axes {ROWS!r} and {COMPONENTS!r}, of the type AxisType.Auto, got {asked}.")
        check(_apart(asked), "every process must have parts of the rows of its own, one after the other: see --mesh.")
        return asked
    found = [re.fullmatch(r"\s*(data|component)\s*=\s*(\d+)\s*", part) for part in str(asked).split(",")]
    axes = {part[1]: int(part[2]) for part in found if part}
    check(len(axes) == len(found), f"a mesh is written as data=4,component=2, got {short(asked)}.")
    return mesh(**axes)


def _apart(devices: Mesh) -> bool:
    """Whether every process has parts of the rows of its own, in their order."""
    if ROWS not in devices.axis_names:
        return jax.process_count() == 1
    parts = np.moveaxis(devices.devices, devices.axis_names.index(ROWS), 0)
    owners = [sorted({device.process_index for device in np.ravel(part)}) for part in parts]
    return all(len(one) == 1 for one in owners) and owners == sorted(owners)


def on_devices(asked: str | None) -> AbstractContextManager[Any]:
    """In this context work goes on over a mesh: the one asked for, or all GPUs or TPUs, if there are several, and the
    devices of all processes. CPU devices of one process, which share its processors, are a mesh only if asked for."""
    several = jax.process_count() > 1 or (jax.device_count() > 1 and jax.default_backend() != "cpu")
    if asked is None and not several:
        return nullcontext()
    return jax.set_mesh(mesh() if asked is None else mesh_of(asked))


def n_parts(axis: str) -> int:
    """How many parts an axis of the mesh at hand is still to be cut into: one without a mesh, and inside of a part."""
    at_hand = jax.sharding.get_abstract_mesh()
    return 1 if axis in at_hand.manual_axes else at_hand.shape.get(axis, 1)


def cut(tree: Any, axis: str) -> bool:
    """Whether the leaves of a tree can be cut along their first axes over an axis of the mesh at hand."""
    n = n_parts(axis)
    return n > 1 and all(leaf.shape[0] % n == 0 for leaf in jax.tree.leaves(tree))


def on_every(axis: str, f: Callable[..., Any], cut_in: Any, cut_out: Any) -> Callable[..., Any]:
    """f, run on every part that an axis of the mesh at hand cuts; in the specifications None is what all parts have or
    agree on, and a number the axis of arrays that is cut."""

    def spec(number: int | None) -> PartitionSpec:
        return PartitionSpec() if number is None else PartitionSpec(*[None] * number, axis)

    in_specs, out_specs = (jax.tree.map(spec, s, is_leaf=lambda s: s is None) for s in (cut_in, cut_out))
    return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, axis_names={axis}, check_vma=False)


def on_all(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, run alike on every device of the mesh at hand, as a callback to the host must be."""
    axes = free_axes()
    if not axes:
        return f
    spec = PartitionSpec()
    return jax.shard_map(f, in_specs=spec, out_specs=spec, axis_names=axes, check_vma=False)


def map_components(f: Callable[..., Any], leaves: Any, *shared: Any) -> Any:
    """f(leaf, *shared) for every component, one at a time: `jax.lax.map` over leaves [K, ...], every device over its
    own. What f knows that is computed must come by `shared`."""

    def each(leaves: Any, shared: Any) -> Any:
        return jax.lax.map(lambda leaf: f(leaf, *shared), leaves)

    return (on_every(COMPONENTS, each, (0, None), 0) if cut(leaves, COMPONENTS) else each)(leaves, shared)


def added(value: Any) -> Any:
    """Inside of a part of the rows: the sum of what all parts have, which adds by + or by fields (`Additive`)."""
    if isinstance(value, jax.Array):
        return jax.lax.psum(value, ROWS)
    if isinstance(value, Additive):
        fields: Any = value
        return type(value)(*(added(getattr(value, f.name)) for f in dataclasses.fields(fields)))
    every = jax.lax.all_gather(value, ROWS)
    n = jax.tree.leaves(every)[0].shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], every)
    return jax.lax.fori_loop(1, n, lambda i, total: total + jax.tree.map(lambda leaf: leaf[i], every), first)


@partial(jax.jit, static_argnames="axis")
def at(x: Array, index: Int[Array, "*m"], axis: str = ROWS) -> Array:
    """x[index], for an x that may be cut along its first axis over an axis of the mesh: copies on every device."""
    if not cut(x, axis):
        return x[index]

    def local(part: Array, index: Array) -> Array:
        here = index - jax.lax.axis_index(axis) * part.shape[0]
        mine = (here >= 0) & (here < part.shape[0])
        found = part[jnp.clip(here, 0, part.shape[0] - 1)]
        return jax.lax.psum(jnp.where(mine.reshape(mine.shape + (1,) * (x.ndim - 1)), found, 0), axis)

    return on_every(axis, local, (0, None), None)(x, index)


def taken(leaf: Array, index: Int[Array, " k"]) -> Array:
    """leaf[index] for leaves [K, ...], cut over components as before: no device has all of them at any time."""
    if not cut(leaf, COMPONENTS):
        return leaf[index]

    def local(part: Array, index: Array) -> Array:
        n = part.shape[0]
        first = jax.lax.axis_index(COMPONENTS) * n

        def one(j: Array, out: Array) -> Array:
            here = index[j] - first
            row = jnp.where((here >= 0) & (here < n), part[jnp.clip(here, 0, n - 1)], 0)
            row, place = jax.lax.psum(row, COMPONENTS), j - first
            return out.at[jnp.where((place >= 0) & (place < n), place, n)].set(row, mode="drop")

        return jax.lax.fori_loop(0, index.shape[0], one, part)

    return on_every(COMPONENTS, local, (0, None), 0)(leaf, index)


def by_component(tree: Any, k: int) -> Any:
    """A tree of arrays: those that lead with k are cut over components, others are the same on every device."""
    n = n_parts(COMPONENTS)

    def place(leaf: Array) -> Array:
        cuts = leaf.ndim > 0 and leaf.shape[0] == k and k % n == 0
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(COMPONENTS) if cuts else PartitionSpec())

    return jax.tree.map(place, tree) if COMPONENTS in free_axes() else everywhere(tree)


def placed(tree: Any, k: int) -> Any:
    """Arrays that every process knows, on the mesh at hand as `by_component` has them; as they are without one."""
    if not free_axes():
        return tree
    devices, n = jax.sharding.get_mesh(), n_parts(COMPONENTS)

    def place(leaf: Any) -> Array:
        cuts = np.ndim(leaf) > 0 and n > 1 and leaf.shape[0] == k and k % n == 0
        where = NamedSharding(devices, PartitionSpec(COMPONENTS) if cuts else PartitionSpec())
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, where)
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, where, lambda part: values[part])

    return jax.tree.map(place, tree)


def zeros(shape: tuple[int, ...], dtype: Any, axes: tuple[str, ...]) -> Array:
    """Zeros, cut over the axes of the mesh at hand that can cut them evenly."""
    if not free_axes():
        return jnp.zeros(shape, dtype)
    cuts = (a if n_parts(a) > 1 and n % n_parts(a) == 0 else None for n, a in zip(shape, axes, strict=True))
    return jnp.zeros(shape, dtype, device=NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*cuts)))


def everywhere(tree: Any) -> Any:
    """A tree of arrays that every device has a copy of."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if free_axes() else tree


def free_axes() -> set[str]:
    """The axes of the mesh at hand, without those that the program at hand runs in a part of."""
    at_hand = jax.sharding.get_abstract_mesh()
    return {ROWS, COMPONENTS} & set(at_hand.axis_names) - set(at_hand.manual_axes)


def replicated(devices: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(devices, PartitionSpec())


def over_rows(devices: Mesh) -> NamedSharding:
    """The first axis cut over the devices."""
    return NamedSharding(devices, PartitionSpec(ROWS))


def spread(index: Int[np.ndarray, "... b"], devices: Mesh) -> Array:
    """Numbers that every process knows, cut along their last axis over all devices."""
    spec = PartitionSpec(*[None] * (index.ndim - 1), *over_rows(devices).spec)
    return jax.make_array_from_callback(index.shape, NamedSharding(devices, spec), lambda part: index[part])


def spread_rows(rows: np.ndarray | Array) -> Array:
    """The rows of all processes, one after the other, cut over the mesh at hand; every process brings as many of its
    own as any other, and they are cut evenly."""
    return jax.make_array_from_process_local_data(over_rows(jax.sharding.get_mesh()), np.asarray(rows))


def of_state(devices: Mesh, state: Any, fsdp: bool) -> Any:
    """Where the leaves of a training state live: everywhere, or with fsdp cut along their longest axis that can be."""

    def place(leaf: Any) -> NamedSharding:
        n = devices.size
        lengths = [length if length % n == 0 and length >= n else 0 for length in leaf.shape]
        if not fsdp or not any(lengths):
            return replicated(devices)
        spec: list[str | None] = [None] * len(lengths)
        spec[int(np.argmax(lengths))] = ROWS
        return NamedSharding(devices, PartitionSpec(*spec))

    return jax.tree.map(place, state)


def padded_length(n: int, parts: int) -> int:
    """The least multiple of `parts` that is at least n."""
    return math.ceil(n / parts) * parts

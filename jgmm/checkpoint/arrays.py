"""Arrays on disk, with orbax."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jgmm.checkpoint.files import faults, first_line
from jgmm.errors import InputError, check
from jgmm.numerics.devices import default_device
from jgmm.numerics.processes import own, to_host
from jgmm.numerics.sharding import free_axes

# A read or write that fails is raised; the other ones in flight would log theirs, with tracebacks.
ORBAX = ("absl", "asyncio")
# Unsigned integers as long as the elements of an array; elements of eight bytes are two words.
WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def save_arrays(path: Path, tree: Any) -> None:
    """Write a pytree of arrays, replacing what is there once it is complete.

    Raises:
        InputError: If the disk is full, or it cannot be written for another reason of the system's.
    """
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:  # one of which writes
        tree = jax.tree.map(to_host, tree)
    with faults(f"write {path}"), quiet(*ORBAX), ocp.StandardCheckpointer(**_alone()) as checkpointer:
        checkpointer.save(path.absolute(), tree, force=True)


def load_arrays(path: Path, target: Any) -> Any:
    """Read a pytree written by `save_arrays`, of the structure of `target`, onto the default device, or onto all of the
    mesh that is set.

    Raises:
        InputError: If the device, the memory or the disk fails, and if the arrays are damaged.
    """
    import orbax.checkpoint as ocp

    target = on_default_device(target)
    try:
        with faults(f"read {path}"), quiet(*ORBAX), ocp.StandardCheckpointer(**_alone()) as checkpointer:
            found = checkpointer.restore(path.absolute(), target)
        return own(found) if free_axes() else found
    except InputError:
        raise
    except Exception as error:  # orbax raises a plain Exception for arrays it cannot read
        raise InputError(f"{path} is damaged: its arrays cannot be read ({first_line(error)}).") from error


def _alone() -> dict[str, Any]:
    """What tells orbax that this process reads and writes without the others."""
    if jax.process_count() == 1:
        return {}
    import orbax.checkpoint as ocp

    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(here, active_processes={here}, barrier_sync_key_prefix=f"process-{here}")
    return {"multiprocessing_options": alone}


def on_default_device(target: Any) -> Any:
    """The shapes and dtypes of a pytree, placed on the default device. Raises InputError if that cannot be used."""
    sharding = jax.sharding.SingleDeviceSharding(default_device())
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), target)


def digest(tree: Any) -> str:
    """The sha256 of all arrays of a pytree, in the order of the tree."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def fingerprint(tree: Any) -> str:
    """A digest of arrays that are computed, and may be cut, over many devices: the same for any number of them.

    Two sums over the words of every array, each word times an odd number that depends on its place, modulo 2**32: a bit
    that flips changes the first for certain. Raises InputError if an array has values that are not finite.
    """
    sums, finite = _sums(tree)
    check(bool(finite), "the arrays have values that are not finite.")
    return hashlib.sha256(np.asarray(sums).tobytes()).hexdigest()


@jax.jit
def _sums(tree: Any) -> tuple[Array, Array]:
    leaves = jax.tree.leaves(tree)
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in leaves])
    return jnp.array([_sums_of(leaf) for leaf in leaves]), finite.all()


@jax.jit
def _sums_of(leaf: Array) -> Array:
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    words = jax.lax.bitcast_convert_type(leaf, WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, length in enumerate(words.shape):
        place = place * np.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    factor = _mixed(place) | 1
    return jnp.array([(words * factor).sum(), _mixed(words ^ factor).sum()], jnp.uint32)


def _mixed(x: Array) -> Array:
    """A hash of 32 bits in which every bit of x counts (Wellons, Prospecting for hash functions, 2018: lowbias32)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree under their paths, such as "gmm.covariance.variances"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Messages of these loggers below CRITICAL are left out."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

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


def save_arrays(path: Path, tree: Any) -> None:
    """Write a pytree of arrays, replacing what is there once it is complete."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree, force=True)


def load_arrays(path: Path, target: Any) -> Any:
    """Read a pytree written by `save_arrays`, of the structure of `target`, onto the default device."""
    import orbax.checkpoint as ocp

    # A read that fails is raised; the other reads in flight would log theirs, with tracebacks.
    with quiet("asyncio"), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, on_default_device(target))


def on_default_device(target: Any) -> Any:
    """The shapes and dtypes of a pytree, placed on the default device."""
    sharding = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), target)


def digest(tree: Any) -> str:
    """The sha256 of all arrays of a pytree, in the order of the tree."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.ascontiguousarray(leaf).data)
    return total.hexdigest()


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

"""Several processes that run the same program, each with examples and devices of its own (`jax.distributed`).

In one process everything here is as good as nothing.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from jgmm.errors import InputError, check
from jgmm.numerics.sharding import COMPONENTS, ROWS


def join() -> None:
    """Join the other processes: on TPU pods and under SLURM or MPI they find each other, elsewhere by
    $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and $JAX_PROCESS_ID. Raises InputError if none are found."""
    count, number = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        if count is None or number is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(num_processes=int(count), process_id=int(number))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed found no other processes to join ({error}): outside a TPU pod, SLURM or MPI set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID, from 0."
        ) from error


def on_own_devices() -> AbstractContextManager[Any]:
    """In this context a process works on its own devices, where there are several processes."""
    if jax.process_count() == 1:
        return nullcontext()
    devices = jax.local_devices()
    shape = (len(devices), 1)
    return jax.set_mesh(jax.make_mesh(shape, (ROWS, COMPONENTS), axis_types=(AxisType.Auto,) * 2, devices=devices))


def wait(name: str) -> None:
    """Wait until all processes have come here; `name` says where."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_decides(act: Callable[[], Any]) -> None:
    """What the first process does for all of them: where it raises InputError, all do."""
    said = ""
    if jax.process_index() == 0:
        try:
            act()
        except InputError as error:
            said = str(error)
            if jax.process_count() == 1:
                raise
    told = of_all(np.frombuffer(said.encode(), np.uint8)).tobytes().decode()
    if told:
        raise InputError(told)


def check_parts(parts: int) -> None:
    """Raise InputError unless every process has as many of so many parts of the rows."""
    n = jax.process_count()
    check(parts % n == 0, f"{n} processes cannot have as many of {parts} parts of the rows each: see --mesh.")


def to_host(x: Any) -> np.ndarray:
    """An array that may be cut along its first axis over the devices of all processes, on every host; on no device."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    parts = {s.index[0].start or 0: s.data for s in x.addressable_shards}
    here = np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
    return here if len(here) == len(x) else of_all(here)


def over_processes(x: np.ndarray) -> np.ndarray:
    """The sum of an array of every process, in its own dtype."""
    return x if jax.process_count() == 1 else of_all(np.asarray(x)[None]).sum(axis=0)


def own(tree: Any) -> Any:
    """A tree of arrays on the devices of this process."""
    return jax.tree.map(lambda leaf: jnp.asarray(to_host(leaf)), tree)


def of_all(x: np.ndarray) -> np.ndarray:
    """Arrays of all processes, one after the other along their first axis; to the last bit."""
    if jax.process_count() == 1:
        return x
    lengths = np.ravel(multihost_utils.process_allgather(np.array(len(x))))
    if lengths.max() == 0:
        return x
    padded = np.zeros((lengths.max(), *x.shape[1:]), x.dtype)
    padded[: len(x)] = x
    words = multihost_utils.process_allgather(padded.reshape(-1).view(np.uint8))
    parts = np.asarray(words).view(x.dtype).reshape(-1, *padded.shape)
    return np.concatenate([part[:n] for part, n in zip(parts, lengths, strict=True)])

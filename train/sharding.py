"""One program on one device, on several, or on several processes: batches are cut over the devices, and parameters are
copied to all of them or cut as well."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from jgmm.errors import InputError, check

AXIS = "data"


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


def mesh() -> Mesh:
    """All devices of all processes in a row."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(batch_size: int, accumulate: int) -> None:
    """Raise InputError unless every part of a batch can be cut evenly over the devices."""
    n, part = jax.device_count(), batch_size // accumulate
    check(
        part % n == 0,
        f"--batch-size {batch_size} in {accumulate} part(s) gives {part} images at a time, which {n} devices cannot "
        "share evenly.",
    )


def replicated(devices: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(devices, PartitionSpec())


def over_rows(devices: Mesh) -> NamedSharding:
    """The first axis cut over the devices."""
    return NamedSharding(devices, PartitionSpec(AXIS))


def of_state(devices: Mesh, state: Any, fsdp: bool) -> Any:
    """Where the leaves of a training state live: everywhere, or with fsdp cut along their longest axis that can be."""

    def place(leaf: Any) -> NamedSharding:
        n = devices.size
        lengths = [length if length % n == 0 and length >= n else 0 for length in leaf.shape]
        if not fsdp or not any(lengths):
            return replicated(devices)
        spec: list[str | None] = [None] * len(lengths)
        spec[int(np.argmax(lengths))] = AXIS
        return NamedSharding(devices, PartitionSpec(*spec))

    return jax.tree.map(place, state)


def spread(index: Int[np.ndarray, " b"], devices: Mesh) -> Array:
    """A vector that every process knows, cut over all devices."""
    return jax.make_array_from_callback(index.shape, over_rows(devices), lambda part: index[part])

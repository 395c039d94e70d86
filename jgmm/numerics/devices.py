"""The device that JAX computes on."""

import os

import jax
import jax.numpy as jnp

from jgmm.errors import Fault


def default_device() -> jax.Device:
    """The default device. Raises Fault if JAX cannot use it, which is no fault of any data."""
    try:
        return jnp.zeros(()).addressable_shards[0].device  # of a mesh, where one is set, the first
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS")
        named = f"$JAX_PLATFORMS={asked} asks for" if asked else "it should compute on"
        raise Fault(
            f"JAX cannot use the device that {named}: unset it, or install JAX for it, such as jax[cuda13]."
        ) from error

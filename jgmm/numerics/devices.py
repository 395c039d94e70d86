"""The device that JAX computes on."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

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


@cache
def convolution_options() -> dict[str, Any]:
    """Options of `jax.jit` for a program that is mostly convolutions.

    XLA gives the convolutions of CPUs to YNNPACK unless it is told otherwise; its own, of Eigen, were 1.6 to 2.1 times
    as fast where they were measured (docs/training.md). Without effect elsewhere, and where this XLA knows no such
    option.
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@cache
def jit_convolutions(f: Callable, *static: str) -> Callable:
    """A function of a module as a program with these options and static arguments, made once."""
    return jax.jit(f, static_argnames=static, compiler_options=convolution_options())

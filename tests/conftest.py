"""Eight CPU devices, shapes checked at every call, and no silent broadcasting of ranks."""

import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

import jgmm
import train

# Programs that the commands compile, here and in processes of their own, are kept apart from the user's cache.
CACHE = str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Most of the time goes into compiling, and what makes programs fast takes most of that. With XLA_FLAGS set, as in
# `make test-slow`, programs are compiled as users have them.
QUICKLY = ["xla_backend_optimization_level=0", "xla_llvm_disable_expensive_passes=true"]
QUICKLY += ["xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(f"--{flag}" for flag in QUICKLY))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

with install_import_hook(["jgmm", "train"], "beartype.beartype"):
    for package in (jgmm, train):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@pytest.fixture(scope="module", autouse=True)
def no_more_programs_than_memory_maps() -> Iterator[None]:
    """Forget what a module has compiled: every program holds memory maps, of which a process may have 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """The test computes in float64."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cifar_dir() -> Path:
    """The folder with the real CIFAR-10; the test is skipped where it is missing."""
    places = [os.environ.get("JGMM_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "cifar-10-batches-bin").is_dir():
            return Path(place)
    pytest.skip("CIFAR-10 is not here: point $JGMM_DATA at the folder that holds cifar-10-batches-bin")

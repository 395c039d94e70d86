"""How much of a training step goes into drawing x0, for every source and coupling.

python benchmarks/train_step.py --run RUN [--data-dir DIR] [--preset tiny|cifar10] [--batch-sizes 128 512]

RUN is a folder of jgmm.fit, on the same data. A step is timed whole, and once more with x0 given: the difference is the
draw, the coupling and, for `ot`, the assignment on the host. On a GPU it also prints images a second in float32 and
bfloat16, and the share of the peak of matrix products that was measured in the same run; `unet_torch.py` times the same
network in PyTorch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from train import batches, couplings, step, world
from train.config import PRESETS, Config


@dataclass(frozen=True)
class Options:
    """Time training steps."""

    run: Path
    """A mixture of the same images."""
    data_dir: Path | None = None
    """Folder with CIFAR-10; the embedded photographs stand in where none is given."""
    preset: Literal["tiny", "cifar10"] = "tiny"
    """Of the network."""
    batch_sizes: tuple[int, ...] = (128, 512)
    """Images a step."""
    repeats: int = 5
    """Steps timed, of which the median counts."""


def median_seconds(f: Callable[[], Any], repeats: int) -> float:
    """Of so many calls after a first."""
    jax.block_until_ready(f())
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(f())
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def time_step(config: Config, repeats: int) -> tuple[float, float]:
    """Seconds of a step, and of the same step without drawing x0."""
    problem = world.build(config)
    structure, parameters = nnx.split(world.network(config, problem.images.shape, 0))
    state = step.begin(config, parameters)
    index = jnp.asarray(batches.indices(0, 0, len(problem.images), config.batch_size))
    cost = jax.jit(step.make_cost(config))
    whole, given = jax.jit(step.make_step(config, structure)), problem.world._replace(coupling=Given(index))
    without = jax.jit(step.make_step(config, structure))

    def run() -> Any:
        order = None
        if problem.world.coupling.assigned:
            order = jnp.asarray(couplings.assign(np.asarray(cost(problem.world, state.step, index))))
        return whole(state, problem.world, index, order)

    return median_seconds(run, repeats), median_seconds(lambda: without(state, given, index, None), repeats)


@jax.tree_util.register_pytree_node_class
class Given(couplings.Coupling):
    """x0 = 0: nothing is drawn."""

    def __init__(self, like: Any):
        self.like = like

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.like,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple[Any]) -> "Given":
        return cls(*leaves)

    def x0(self, key: Any, source: Any, batch: batches.Batch, order: Any) -> Any:
        return jnp.zeros_like(batch.images)


def peak(dtype: str) -> float:
    """FLOP/s of the matrix product of two 8192 x 8192 matrices."""
    n = 8192
    a = jnp.ones((n, n), dtype)
    return 2 * n**3 / median_seconds(lambda: a @ a, 5)


def speed(config: Config, repeats: int) -> None:
    """Images a second and the share of the peak, with the operations that XLA counts in a step."""
    problem = world.build(config)
    structure, parameters = nnx.split(world.network(config, problem.images.shape, 0))
    state = step.begin(config, parameters)
    index = jnp.asarray(batches.indices(0, 0, len(problem.images), config.batch_size))
    compiled = jax.jit(step.make_step(config, structure)).lower(state, problem.world, index, None).compile()
    seconds = median_seconds(lambda: compiled(state, problem.world, index, None), repeats)
    share = compiled.cost_analysis()["flops"] / seconds / peak(config.dtype)
    print(
        f"| {config.dtype} | {config.batch_size} | {config.batch_size / seconds:.0f} | {100 * share:.0f}% |", flush=True
    )


def main(options: Options) -> None:
    """Print the tables."""
    data = {"data_dir": options.data_dir} if options.data_dir else {"dataset": "photos"}
    base = replace(PRESETS[options.preset], **data)
    cases = {
        "gaussian, independent": {},
        "gaussian, ot": {"coupling": "ot"},
        "mixture, independent": {"source": str(options.run)},
        "mixture, ot": {"source": str(options.run), "coupling": "ot"},
        "mixture, component": {"source": str(options.run), "coupling": "component"},
        "mixture, component, ρ = 0.8": {"source": str(options.run), "coupling": "component", "rho": 0.8},
    }
    print(f"{jax.devices()[0].device_kind}, preset {options.preset}\n")
    print("| source and coupling | batch | share of the step for x0 |\n|---|---|---|")
    for name, extra in cases.items():
        for size in options.batch_sizes:
            whole, without = time_step(replace(base, batch_size=size, **extra), options.repeats)
            print(f"| {name} | {size} | {100 * (whole - without) / whole:.1f}% |", flush=True)
    if jax.default_backend() == "cpu":
        return
    print("\n| precision | batch | images a second | share of the matrix-product peak |\n|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        for size in options.batch_sizes:
            speed(replace(base, batch_size=size, dtype=dtype), options.repeats)


if __name__ == "__main__":
    main(tyro.cli(Options))

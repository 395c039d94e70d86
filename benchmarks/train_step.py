"""How much of a training step goes into drawing x0, for every source and coupling.

python benchmarks/train_step.py --run RUN [--data-dir DIR] [--preset tiny|cifar10] [--batch-sizes 128 512]

RUN is a folder of jgmm.fit, on the same data. What draws x0 is timed by itself, with the assignment on the host for
`ot`, beside a step from N(0, I), whose own draw is next to nothing. On a GPU it also prints images a second in float32,
TF32 and bfloat16, and the share of the peak of matrix products that was measured in the same run; `unet_torch.py` times
the same network in PyTorch.
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

from train import batches, setup, step
from train.config import PRESETS, Config
from train.couplings.assignment import assign


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


def time_step(config: Config, repeats: int) -> float:
    """Seconds of a whole step."""
    made = setup.build(config)
    structure, parameters = nnx.split(setup.network(config, made.images.shape, 0))
    state, index = step.begin(config, parameters), _index(config, made)
    whole = jax.jit(step.make_step(config, structure))
    return median_seconds(lambda: whole(state, made.inputs, index, None), repeats)


def time_x0(config: Config, repeats: int) -> float:
    """Seconds of drawing x0 for a step's images, with the assignment on the host where there is one."""
    made = setup.build(config)
    index, zero = _index(config, made), jnp.zeros((), jnp.int32)
    cost = jax.jit(step.make_cost(config))
    keys = batches.keys_of(0, zero)
    memory = made.inputs.coupling.begin()
    pairs = jax.jit(lambda w, memory, order: w.coupling.pairs(keys, w.data, index, order, memory))

    def run() -> Any:
        order = None
        if made.inputs.coupling.assigned:
            order = jnp.asarray(assign(np.asarray(cost(made.inputs, memory, zero, index))))
        return pairs(made.inputs, memory, order)

    return median_seconds(run, repeats)


def _index(config: Config, made: setup.Setup) -> jax.Array:
    return jnp.asarray(batches.indices(0, 0, len(made.images), config.batch_size))


def peak(dtype: str, repeats: int) -> float:
    """FLOP/s of the matrix product of two 8192 x 8192 matrices."""
    n = 8192
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / median_seconds(lambda: product(a, a), repeats)


def speed(config: Config, repeats: int) -> tuple[float, float]:
    """Images a second, and FLOP/s as XLA counts them before it optimizes, of steps that follow one another."""
    made = setup.build(config)
    structure, parameters = nnx.split(setup.network(config, made.images.shape, 0))
    state, index = step.begin(config, parameters), _index(config, made)
    lowered = jax.jit(step.make_step(config, structure), donate_argnums=0).lower(state, made.inputs, index, None)
    advance = lowered.compile()
    for i in range(3 + 4 * repeats):
        if i == 3:
            jax.block_until_ready(state)
            begun = time.perf_counter()
        state, _ = advance(state, made.inputs, index, None)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - begun) / (4 * repeats)
    return config.batch_size / seconds, lowered.cost_analysis()["flops"] / seconds


def print_speeds(base: Config, options: Options) -> None:
    """The table of precisions and batches; "default" products of float32 are TF32 on a GPU that has it."""
    print("\n| precision | batch | images a second | share of the matrix-product peak |\n|---|---|---|---|")
    for dtype, precision in (("float32", "highest"), ("float32", "default"), ("bfloat16", "default")):
        with jax.default_matmul_precision(precision):
            most = peak(dtype, options.repeats)
            for size in options.batch_sizes:
                images, flops = speed(replace(base, batch_size=size, dtype=dtype), options.repeats)
                print(f"| {dtype}, {precision} | {size} | {images:.0f} | {100 * flops / most:.0f}% |", flush=True)


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
    for size in options.batch_sizes:
        network = time_step(replace(base, batch_size=size), options.repeats)
        for name, extra in cases.items():
            seconds = time_x0(replace(base, batch_size=size, **extra), options.repeats)
            print(f"| {name} | {size} | {100 * seconds / (network + seconds):.1f}% |", flush=True)
    if jax.default_backend() != "cpu":
        print_speeds(base, options)


if __name__ == "__main__":
    main(tyro.cli(Options))

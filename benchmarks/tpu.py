"""What the compiler for TPUs makes of the programs, on a machine without one: `make tpu-check`.

    program                        chips      mesh  seconds  GiB a chip   GFLOP a chip   collectives

libtpu compiles for a topology that is described, not attached: what passes here compiles on the chips, and memory is
theirs. The command fails if a program does not compile, or takes more memory than a chip has.
"""

import argparse
import importlib.metadata
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

GIB = 2**30
# Memory of a chip, GiB.
MEMORY = {"v5e": 16, "v6e": 32}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Program(NamedTuple):
    """A program, and arguments for it that are shapes on a mesh."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}


def on(mesh: Any, tree: Any, *axes: str | None) -> Any:
    """The shapes of a tree, its leaves cut along these axes of the mesh as far as they go."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    def place(leaf: Any) -> Any:
        spec = [
            axis if axis is not None and n % mesh.shape[axis] == 0 else None
            for n, axis in zip(leaf.shape, axes, strict=False)
        ]
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(place, tree)


def em(mesh: Any, family: str, n: int, d: int, k: int) -> Program:
    """An iteration of EM, with bounds where the family is screened."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm.checkpoint.structure import abstract_gmm
    from jgmm.covariance.prior import Floor, Prior
    from jgmm.em.rows import RowsInMemory
    from jgmm.em.steps import em_step

    gmm = on(mesh, abstract_gmm(k, d, family, jnp.float32), "component")
    rows = RowsInMemory(on(mesh, jax.ShapeDtypeStruct((n, d), jnp.float32), "data"))
    one = np.float32(1)
    prior, floor = on(mesh, (Prior(strength=one, variance=one, mean_strength=one, mean=one), Floor(absolute=one)))
    bounds = None
    if gmm.covariance.screened:
        bounds = on(mesh, jax.ShapeDtypeStruct((k, n), jnp.float32), "component", "data")
    return Program(em_step, (gmm, rows, prior, floor, bounds))


def moments(mesh: Any, p: int, rows: int = 4096) -> Program:
    """The sums of a PCA over some rows, without mirror images."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm.encoder import scatter
    from jgmm.encoder.moments import add_products
    from jgmm.numerics.summation import CompensatedSum

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    middle = scatter.Middle(floats(), floats(), floats(2, 1, p))
    parts = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.int32), scatter.parts_of(p, None))
    own = on(mesh, jax.ShapeDtypeStruct((rows, p), jnp.uint8), "data"), on(mesh, floats(rows), "data")
    totals = CompensatedSum(*[on(mesh, floats(mesh.shape["data"], p + 1, p + 1), "data")] * 2)
    return Program(add_products, (scatter.counted, on(mesh, (middle, parts)), *own, [totals]))


def clusters(mesh: Any, n: int, d: int, k: int) -> Program:
    """k-means, with its seeding."""
    import jax
    import jax.numpy as jnp

    from jgmm.em.initializers import kmeans

    x = on(mesh, jax.ShapeDtypeStruct((n, d), jnp.float32), "data")
    key, metric = on(mesh, (jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((d,), jnp.float32)))
    return Program(kmeans, (key, x, k, metric))


def draws(mesh: Any, family: str, d: int, k: int, n: int) -> Program:
    """Draws from a mixture."""
    import jax
    import jax.numpy as jnp

    from jgmm.checkpoint.structure import abstract_gmm

    gmm = on(mesh, abstract_gmm(k, d, family, jnp.float32), "component")
    key = on(mesh, jax.eval_shape(lambda: jax.random.key(0)))
    return Program(jax.jit(lambda key, gmm: gmm.sample(key, n)), (key, gmm))


def step(mesh: Any, fsdp: bool, a_chip: int = 128) -> Program:
    """A step of the trainer with the network of the cifar10 preset, in bfloat16, from N(0, I)."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jgmm.numerics import sharding
    from train import setup
    from train import step as steps
    from train.config import PRESETS

    config = replace(PRESETS["cifar10"], dataset="photos", batch_size=a_chip * mesh.size, fsdp=fsdp, dtype="bfloat16")
    made = setup.build(config)
    structure, parameters = nnx.split(nnx.eval_shape(lambda: setup.network(config, made.images.shape, 0)))
    state = jax.eval_shape(lambda p: steps.begin(config, p), parameters)
    places, everywhere = sharding.of_state(mesh, state, fsdp), sharding.replicated(mesh)
    placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, places)
    inputs = made.inputs._replace(pixels=jax.ShapeDtypeStruct((50_000, *made.images.shape), jnp.uint8))
    index = on(mesh, jax.ShapeDtypeStruct((config.batch_size,), jnp.int32), "data")
    advance = jax.jit(steps.make_step(config, structure), donate_argnums=0, out_shardings=(places, everywhere))
    return Program(advance, (placed, on(mesh, inputs), index, None))


N = 50_000
PROGRAMS: dict[str, Callable[[Any], Program]] = {
    "EM diag 3,072-D K=100": lambda mesh: em(mesh, "diag", N, 3072, 100),
    "EM full 300-D K=100": lambda mesh: em(mesh, "full", N, 300, 100),
    "EM full 3,072-D K=100": lambda mesh: em(mesh, "full", N, 3072, 100),
    "EM full 64-D K=8": lambda mesh: em(mesh, "full", 4096, 64, 8),
    "PCA 3,072-D": lambda mesh: moments(mesh, 3072),
    "k-means 3,072-D K=100": lambda mesh: clusters(mesh, N, 3072, 100),
    "512 draws full 300-D K=100": lambda mesh: draws(mesh, "full", 300, 100, 512),
    "512 draws full 3,072-D K=100": lambda mesh: draws(mesh, "full", 3072, 100, 512),
    "trainer's step": lambda mesh: step(mesh, False),
    "trainer's step, FSDP": lambda mesh: step(mesh, True),
}
# The programs, and the topologies and meshes (data, component) they are compiled for.
ALONE, FOUR, SIXTEEN, NEWER = ("v5e:1x1", 1, 1), ("v5e:2x2", 4, 1), ("v5e:4x4", 16, 1), ("v6e:2x2", 4, 1)
CUT = ("v5e:4x4", 4, 4)
TABLE: list[tuple[str, tuple[tuple[str, int, int], ...]]] = [
    ("PCA 3,072-D", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("EM diag 3,072-D K=100", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("EM full 300-D K=100", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("EM full 3,072-D K=100", (CUT,)),
    ("k-means 3,072-D K=100", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("512 draws full 300-D K=100", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("512 draws full 3,072-D K=100", (CUT,)),
    ("trainer's step", (ALONE, FOUR, SIXTEEN, NEWER)),
    ("trainer's step, FSDP", (FOUR, SIXTEEN, NEWER)),
]


def compiled(name: str, topology: str, data: int, component: int) -> str:
    """The line of the table of a program. Raises RuntimeError if it takes more memory than a chip has."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    chips = {"chips_per_host_bounds": (1, 1, 1)} if topology == "v5e:1x1" else {}
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **chips)
    devices = np.array(described.devices).reshape(data, component)
    mesh = Mesh(devices, ("data", "component"), axis_types=(AxisType.Auto,) * 2)
    program = PROGRAMS[name](mesh)  # outside of the mesh, on which nothing can run
    with jax.set_mesh(mesh):
        begun = time.perf_counter()
        found = program.function.lower(*program.arguments, **program.options).compile()
    seconds, memory = time.perf_counter() - begun, found.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = (held + memory.temp_size_in_bytes) / GIB
    calls = Counter(re.findall(rf"= .*? ({'|'.join(COLLECTIVES)})(?:-start)?\(", found.as_text()))
    said = ", ".join(f"{n} {kind}" for kind, n in sorted(calls.items())) or "none"
    flops = found.cost_analysis().get("flops", 0) / 1e9
    line = f"{name:30} {topology:8} {f'{data}x{component}':>6} {seconds:8.0f} {total:11.2f} {flops:14,.1f}   {said}"
    if total > MEMORY[topology.partition(":")[0]]:
        raise RuntimeError(f"{line}\ntakes more memory than a chip has")
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requirement", action="store_true", help="print the libtpu that belongs to this jax, and end")
    parser.add_argument("--only", default="", help="programs whose names have this in them")
    parser.add_argument("--topology", default="", help="topologies whose names have this in them")
    asked = parser.parse_args()
    if asked.requirement:
        needed = importlib.metadata.requires("jax") or []
        print(next(one.partition(";")[0].strip() for one in needed if one.startswith("libtpu")))
        return 0
    # Nothing is loaded onto a chip, so that several may compile at once.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "JAX_PLATFORMS": "cpu",
    }
    print(__doc__.splitlines()[2].strip())
    failed = 0
    table = {name: meshes for name, meshes in TABLE} | {"EM full 64-D K=8": (FOUR,) if asked.only else ()}
    for name, meshes in table.items():
        for mesh in meshes:
            if asked.only not in name or asked.topology not in mesh[0]:
                continue
            try:
                print(compiled(name, *mesh), flush=True)
            except Exception as error:  # whatever the compiler raises is a line of the table
                failed += 1
                print(f"{name:30} {mesh[0]:8} FAILED: {str(error).splitlines()[0]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

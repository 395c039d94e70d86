"""`python -m train.sample RUN`: images of a trained flow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jgmm.commands import cli, outputs
from jgmm.commands.options import one_of
from jgmm.errors import check, check_count, check_number, check_seed
from jgmm.registry import SOLVERS

PROG = "python -m train.sample"
TIMES = 9
# Draws that the share of rejected ones is estimated from.
SHARED = 1024


@dataclass(frozen=True)
class Options:
    """Draw images from a trained flow."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m train`."""
    n: int = 64
    """The number of images."""
    solver: Annotated[str, one_of(SOLVERS)] = "euler"
    """The solver of the flow."""
    nfe: int = 100
    """The number of evaluations of the velocity; dopri5 chooses its own."""
    guidance: float = 1.0
    """The strength of classifier-free guidance: 1 follows the label, more exaggerates it, 0 ignores it."""
    label: int | None = None
    """The label of all images [default: each label in turn]."""
    prune: bool = False
    """Reject draws of x0 along directions in which no image lies."""
    parameters: Literal["average", "last"] = "average"
    """The parameters to use: their running average, or those of the last step."""
    step: int | None = None
    """The step of the checkpoint [default: the newest]."""
    batch_size: int = 256
    """The number of images drawn at a time; the draws depend on it."""
    out: Path | None = None
    """The picture to write [default: grid.png, unless --npz is given]."""
    npz: Path | None = None
    """The array file to write: the images, in [-1, 1], and the x0 they came from."""
    trajectory: Path | None = None
    """The picture to write of the way of eight images from noise."""
    force: bool = False
    """Overwrite files that this command has not written."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files, if it has moved; --prune reads the images."""
    seed: int = 0
    """The seed of the draw."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, draw, write."""
    options = cli.parse(Options, prog=PROG, args=args)
    check_count("--n", options.n)
    check_count("--batch-size", options.batch_size)
    check_number("--guidance", options.guidance)
    check_seed("--seed", options.seed)
    outputs.check_output("--out", _picture(options), outputs.PICTURES, PROG, options.force)
    outputs.check_output("--trajectory", options.trajectory, outputs.PICTURES, PROG, options.force)
    outputs.check_output("--npz", options.npz, outputs.ARRAYS, PROG, options.force)
    if _picture(options):
        outputs.check_grid("--n", options.n, "write them with --npz FILE alone")

    from train.sampler import check_solver

    check_solver(options.solver, options.nfe)
    cli.compile_once()
    _run(options)


def _run(options: Options) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm.data import is_image
    from jgmm.figures.images import sample_grid, trajectories
    from jgmm.numerics.devices import jit_convolutions
    from train.flow import load
    from train.sampler import images

    flow = load(options.run, options.parameters, options.step)
    out = _picture(options)
    unseen = out is None and options.trajectory is None
    check(
        unseen or is_image(flow.shape),
        f"{options.run} makes images of shape {flow.shape}, which no picture shows: write them with --npz FILE.",
    )
    # x0 and the images, in lists and joined.
    outputs.check_memory("--n", options.n, 4 * 4 * math.prod(flow.shape))
    labels = _labels(options, flow.classes)
    key = jax.random.key(options.seed)
    source = _pruned(options, flow, key) if options.prune else flow.source

    draw = jit_convolutions(images, "structure", "solver", "nfe", "guidance")
    how = {"solver": options.solver, "nfe": options.nfe, "guidance": options.guidance}

    def follow(x0: Any, first: int, times: Any = None) -> Any:
        mine = None if labels is None else jnp.asarray(labels[np.arange(first, first + len(x0)) % options.n])
        return draw(flow.structure, flow.parameters, flow.space, x0, mine, times=times, **how)

    size = min(options.n, options.batch_size)  # one compiled shape: the last draws too many
    starts, ends, made = [], [], set()
    for i, first in enumerate(range(0, options.n, size)):
        x0 = source.draw(jax.random.fold_in(key, i), size)
        found = follow(x0, first)
        starts.append(np.asarray(x0)[: options.n - first])
        ends.append(np.asarray(found.x)[: options.n - first])
        made.add(int(found.evaluations))
    pixels = np.concatenate(ends)
    evaluations = " to ".join(map(str, sorted({min(made), max(made)})))  # dopri5 chooses for every batch
    how_many = f"{options.n} images, {options.solver}, {evaluations} evaluations of the velocity"
    print(f"{how_many}, {options.parameters} parameters")
    finite = bool(np.isfinite(pixels).all())
    check(finite, "the images are not finite: the flow has diverged; take an earlier --step or another solver.")
    if options.npz:
        content = {"images": pixels, "x0": np.concatenate(starts), **({} if labels is None else {"labels": labels})}
        outputs.arrays(options.npz, content, PROG)
    if out:
        with outputs.picture(out, PROG) as path:
            sample_grid(path, pixels)
    if options.trajectory:
        times = jnp.linspace(0, 1, TIMES)
        frames = np.asarray(follow(jnp.asarray(starts[0][:8]), 0, times).x)
        with outputs.picture(options.trajectory, PROG) as path:
            trajectories(path, frames, np.asarray(times))
    for written in (out, options.npz, options.trajectory):
        if written:
            print(written)


def _picture(options: Options) -> Path | None:
    return options.out or (None if options.npz else Path("grid.png"))


def _pruned(options: Options, flow: Any, key: Any) -> Any:
    """The source without draws along directions in which none of the images lies that the run was trained on."""
    from train import runs, setup, sources

    config = runs.kept_config(options.run)
    images, _ = setup.load_images(replace(config, data_dir=options.data_dir or config.data_dir))
    runs.check_same_data(options.run, images)
    source = sources.prune(flow.source, images, flow.space)
    share = 1 - source.keeps(flow.source.draw(key, SHARED)).mean()
    print(f"--prune: {len(source.axes)} directions without images; {100 * share:.1f}% of the draws are rejected")
    return source


def _labels(options: Options, classes: int) -> Any:
    import numpy as np

    asked = options.label is not None or options.guidance != 1
    check(classes > 0 or not asked, f"{options.run} is not conditional: leave out --label and --guidance.")
    if not classes:
        return None
    fits = options.label is None or 0 <= options.label < classes
    check(fits, f"--label must be from 0 to {classes - 1}, got {options.label}.")
    if options.label is None:
        return (np.arange(options.n) % classes).astype(np.int32)
    return np.full(options.n, options.label, np.int32)


if __name__ == "__main__":
    cli.run(main)

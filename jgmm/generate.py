"""`python -m jgmm.generate RUN`: draw images from a fitted mixture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jgmm.commands import cli, outputs
from jgmm.errors import check, check_count, check_seed

PROG = "python -m jgmm.generate"


@dataclass(frozen=True)
class Options:
    """Draw images from a fitted mixture, as a grid and as arrays."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m jgmm.fit` or `jgmm.save`."""
    n: int = 64
    """The number of images."""
    out: Path | None = None
    """The picture to write [default: grid.png, unless --npz is given]."""
    component: int | None = None
    """Draw from this component alone."""
    npz: Path | None = None
    """The array file to write: x0 (normalized), the component of each, and the mean and std of pixels in [-1, 1]."""
    force: bool = False
    """Overwrite files that this command has not written."""
    seed: int = 0
    """The seed of the draw."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, draw, write."""
    options = cli.parse(Options, prog=PROG, args=args)
    check_count("--n", options.n)
    check_seed("--seed", options.seed)
    out = options.out or (None if options.npz else Path("grid.png"))
    outputs.check_output("--out", out, outputs.PICTURES, PROG, options.force)
    outputs.check_output("--npz", options.npz, outputs.ARRAYS, PROG, options.force)
    if out:
        outputs.check_grid("--n", options.n, "write them with --npz FILE alone")

    import jax
    import numpy as np

    from jgmm.commands.inputs import open_run
    from jgmm.data import is_image
    from jgmm.figures.images import sample_grid

    source = open_run(options.run).source
    check(
        out is None or is_image(source.shape),
        f"{options.run} models vectors of shape {source.shape}, not images: write them with --npz FILE.",
    )
    # x0, codes, and what decoding takes.
    outputs.check_memory("--n", options.n, 4 * math.prod(source.shape) * source.mean.dtype.itemsize)
    key = jax.random.key(options.seed)
    x0, k = source.sample(key, options.n, component=options.component, return_components=True)
    if options.npz:
        content = {"x0": x0, "components": k, "mean": source.mean, "std": source.std}
        outputs.arrays(options.npz, content, PROG)
    if out:
        with outputs.picture(out, PROG) as path:
            sample_grid(path, np.asarray(source.to_pixels(x0)))
    for written in (out, options.npz):
        if written:
            print(written)


if __name__ == "__main__":
    cli.run(main)

"""`python -m jgmm.generate RUN`: draw images from a fitted mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jgmm.commands import cli
from jgmm.errors import InputError, check


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
    seed: int = 0
    """The seed of the draw."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, draw, write."""
    options = cli.parse(Options, prog="python -m jgmm.generate", args=args)
    cli.check_picture("--out", options.out)
    cli.check_output("--npz", options.npz, ".npz")
    check(options.n >= 1, f"--n must be at least 1, got {options.n}.")

    import jax
    import numpy as np

    from jgmm.checkpoint.models import load_source, read_config
    from jgmm.data import is_image
    from jgmm.figures.images import sample_grid

    cli.compile_once()
    jax.config.update("jax_enable_x64", read_config(options.run)["model"]["dtype"] == "float64")
    source = load_source(options.run)
    out = options.out or (None if options.npz else Path("grid.png"))
    check(
        out is None or is_image(source.shape),
        f"{options.run} models vectors of shape {source.shape}, not images: write them with --npz FILE.",
    )
    key = jax.random.key(options.seed)
    x0, k = source.sample(key, options.n, component=options.component, return_components=True)
    try:
        if options.npz:
            np.savez(options.npz, x0=x0, components=k, mean=source.mean, std=source.std)
        if out:
            sample_grid(out, np.asarray(source.to_pixels(x0)))
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}.") from error
    for path in (out, options.npz):
        if path:
            print(path)


if __name__ == "__main__":
    cli.run(main)

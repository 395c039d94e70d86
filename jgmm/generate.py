"""`python -m jgmm.generate RUN`: draw images from a fitted mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jgmm import cli
from jgmm.checks import InputError, check


@dataclass(frozen=True)
class Options:
    """Draw images from a fitted mixture, as a grid and as arrays."""

    run: tyro.conf.Positional[Path]
    """Run folder written by `python -m jgmm.fit`."""
    n: int = 64
    """Number of images."""
    out: Path | None = None
    """The picture [default: grid.png, unless --npz is given]."""
    component: int | None = None
    """Draw from this component alone."""
    npz: Path | None = None
    """Also write x0 (normalised), the component of each, and the mean and std that normalise pixels in [-1, 1]."""
    seed: int = 0
    """Of the draw."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, draw, write."""
    options = cli.parse(Options, prog="python -m jgmm.generate", args=args)
    cli.check_picture("--out", options.out)
    cli.check_output("--npz", options.npz, ".npz")
    check(options.n >= 1, f"--n must be at least 1, got {options.n}.")

    import jax
    import numpy as np

    from jgmm import checkpoint, figures
    from jgmm.source import sample

    cli.compile_once()
    config = checkpoint.read_config(options.run)
    jax.config.update("jax_enable_x64", config["source"]["dtype"] == "float64")
    params = checkpoint.load(options.run)
    out = options.out or (None if options.npz else Path("grid.png"))
    check(
        out is None or figures.is_image(params.shape),
        f"{options.run} models vectors of shape {params.shape}, not images: write them with --npz FILE.",
    )
    key = jax.random.key(options.seed)
    x0, k = sample(key, params, options.n, component=options.component, return_components=True)
    try:
        if options.npz:
            np.savez(options.npz, x0=x0, components=k, mean=params.mean, std=params.std)
        if out:
            figures.sample_grid(out, np.asarray(x0 * params.std[None] + params.mean[None]))
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}.") from error
    for path in (out, options.npz):
        if path:
            print(path)


if __name__ == "__main__":
    cli.run(main)

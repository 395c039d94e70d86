"""`python -m jgmm.complete RUN`: images completed from one half."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jgmm.commands import cli, outputs
from jgmm.commands.options import check_names, check_one_source, one_of
from jgmm.errors import check, check_count, check_seed
from jgmm.registry import DATASETS, PIXELS

PROG = "python -m jgmm.complete"
# Images and draws that a picture has room for.
MOST = 100


@dataclass(frozen=True)
class Options:
    """Show one half of some images to a fitted mixture and let it complete them."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m jgmm.fit` or `jgmm.save`."""
    known: Literal["top", "bottom", "left", "right"] = "top"
    """The half of every image that is given."""
    n: int = 8
    """The number of images."""
    draws: int = 3
    """The number of completions drawn for each image, beside the mean."""
    data: Path | None = None
    """The .npy or .npz file of images [default: the run's own, those held out of the fit if there are any]."""
    dataset: Annotated[str | None, one_of(DATASETS)] = None
    """The data set to take the images from instead."""
    pixels: Annotated[str, one_of(PIXELS, "auto")] = "auto"
    """The convention of a file of images in floating point: 0..1, signed ([-1, 1]), 0..255, or raw, to take it as it is
    [default: its range tells, and must be that of the run]."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files."""
    out: Path = Path("completion.png")
    """The picture to write."""
    force: bool = False
    """Overwrite a picture that this command has not written."""
    seed: int = 0
    """The seed of the choice of images and of the draws."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, complete, draw."""
    options = cli.parse(Options, prog=PROG, args=args)
    check_count("--n", options.n, most=MOST)
    check_count("--draws", options.draws, least=0, most=MOST)
    check_seed("--seed", options.seed)
    outputs.check_output("--out", options.out, outputs.PICTURES, PROG, options.force)
    check_one_source(options)
    check_names(options, dataset=DATASETS, pixels=PIXELS)

    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm.commands.inputs import images_for, open_run
    from jgmm.completion import complete_images
    from jgmm.data import is_image, rescale
    from jgmm.figures.images import completions
    from jgmm.source import pixel_moments

    source, config = open_run(options.run)
    check(is_image(source.shape), f"{options.run} models vectors of shape {source.shape}, not images.")
    images = images_for(config, options.data, options.dataset, options.data_dir, options.pixels)
    check(images.shape == source.shape, f"the run models images of {source.shape}, the data are {images.shape}.")
    chosen = np.random.default_rng(options.seed).choice(len(images), min(options.n, len(images)), replace=False)
    pixels = rescale(images.pixels[chosen], source.gmm.dtype)
    known = _half(source.shape, options.known)
    x0 = source.from_pixels(jnp.asarray(pixels))
    found = complete_images(jax.random.key(options.seed), source, x0, known, draws=options.draws)

    mean, draws = np.asarray(source.to_pixels(found.mean)), np.asarray(source.to_pixels(found.draws))
    unknown = ~known
    missed = np.sqrt(((mean - pixels)[:, unknown] ** 2).mean())
    blind = np.sqrt(((np.asarray(pixel_moments(source)[0]) - pixels)[:, unknown] ** 2).mean())
    print(f"error of the mean: {missed:.3f} in [-1, 1] pixels, root mean square; with nothing known, {blind:.3f}")
    with outputs.picture(options.out, PROG) as path:
        completions(path, pixels, known, mean, draws)
    print(options.out)


def _half(shape: tuple[int, ...], side: str) -> Any:
    import numpy as np

    known = np.zeros(shape, bool)
    h, w = shape[0] // 2, shape[1] // 2
    where: dict[str, Any] = {"top": np.s_[:h], "bottom": np.s_[h:], "left": np.s_[:, :w], "right": np.s_[:, w:]}
    known[where[side]] = True
    return known


if __name__ == "__main__":
    cli.run(main)

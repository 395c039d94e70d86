"""`python -m jgmm.complete RUN`: images completed from one half."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jgmm import cli
from jgmm.checks import InputError, check
from jgmm.options import one_of
from jgmm.tables import DATASETS


@dataclass(frozen=True)
class Options:
    """Show one half of some images to a fitted mixture and let it complete them."""

    run: tyro.conf.Positional[Path]
    """Run folder written by `python -m jgmm.fit`."""
    known: Literal["top", "bottom", "left", "right"] = "top"
    """The half that is given."""
    n: int = 8
    """Number of images."""
    draws: int = 3
    """Completions drawn for each, beside the mean."""
    data: Path | None = None
    """A .npy or .npz file of images [default: the run's own, those kept out of the fit if there are any]."""
    dataset: Annotated[str | None, one_of(DATASETS)] = None
    """A data set instead."""
    data_dir: Path | None = None
    """Folder with the CIFAR-10 files."""
    out: Path = Path("completion.png")
    """The picture."""
    seed: int = 0
    """Of the choice of images and of the draws."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, complete, draw."""
    options = cli.parse(Options, prog="python -m jgmm.complete", args=args)
    check(options.n >= 1, f"--n must be at least 1, got {options.n}.")
    check(options.draws >= 0, f"--draws must be at least 0, got {options.draws}.")
    cli.check_picture("--out", options.out)
    check(options.data is None or options.dataset is None, "--data and --dataset name two different data: choose one.")

    import jax
    import jax.numpy as jnp
    import numpy as np

    from jgmm import checkpoint, figures
    from jgmm.completion import complete
    from jgmm.data import rescale
    from jgmm.inputs import images_for
    from jgmm.source import pixel_moments

    cli.compile_once()
    config = checkpoint.read_config(options.run)
    jax.config.update("jax_enable_x64", config["source"]["dtype"] == "float64")
    params = checkpoint.load(options.run)
    check(figures.is_image(params.shape), f"{options.run} models vectors of shape {params.shape}, not images.")
    images = images_for(config, options.data, options.dataset, options.data_dir)
    check(images.shape == params.shape, f"the run models images of {params.shape}, the data are {images.shape}.")
    chosen = np.random.default_rng(options.seed).choice(len(images), min(options.n, len(images)), replace=False)
    pixels = rescale(images.pixels[chosen], params.gmm.means.dtype)
    known = _half(params.shape, options.known)
    x0 = (jnp.asarray(pixels) - params.mean[None]) / params.std[None]
    found = complete(jax.random.key(options.seed), params, x0, known, draws=options.draws)

    def in_pixels(x: jax.Array) -> np.ndarray:
        return np.asarray(x) * np.asarray(params.std) + np.asarray(params.mean)

    mean, draws = in_pixels(found.mean), in_pixels(found.draws)
    unknown = ~known
    missed = np.sqrt(((mean - pixels)[:, unknown] ** 2).mean())
    blind = np.sqrt(((np.asarray(pixel_moments(params)[0]) - pixels)[:, unknown] ** 2).mean())
    print(f"error of the mean: {missed:.3f} in [-1, 1] pixels, root mean square; with nothing known, {blind:.3f}")
    try:
        figures.completions(options.out, pixels, known, mean, draws)
    except OSError as error:
        raise InputError(f"cannot write {options.out}: {error}") from error
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

"""`python -m jgmm.evaluate RUN`: what a fitted mixture says of data: likelihood, clusters, anomalies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jgmm.commands import cli
from jgmm.commands.options import check_names, check_one_source, one_of
from jgmm.errors import check_seed, check_share
from jgmm.registry import DATASETS, PIXELS


@dataclass(frozen=True)
class Options:
    """Evaluate data under a fitted mixture: log-likelihood, bits per dimension, clusters and anomalies."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m jgmm.fit` or `jgmm.save`."""
    data: Path | None = None
    """The .npy or .npz file to evaluate [default: the run's own data, those held out of the fit if there are any]."""
    dataset: Annotated[str | None, one_of(DATASETS)] = None
    """The data set to evaluate instead."""
    pixels: Annotated[str, one_of(PIXELS, "auto")] = "auto"
    """The convention of a file of images in floating point: 0..1, signed ([-1, 1]), 0..255, or raw, to take it as it is
    [default: its range tells, and must be that of the run]."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files."""
    against: tuple[str, ...] = ()
    """Other data sets, or files, to be told apart from the data; they are resized to its images."""
    quantile: float = 0.05
    """The quantile of the training images' log-likelihood below which an image is an anomaly."""
    two_sided: bool = False
    """Put half of the quantile at either end: what is likelier than the training images is an anomaly too."""
    out: Path | None = None
    """The folder for the scores and the pictures [default: RUN/evaluation]."""
    force: bool = False
    """Overwrite files in --out that this command has not written."""
    seed: int = 0
    """The seed of the noise that bits per dimension suppose."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, evaluate, write."""
    options = cli.parse(Options, prog="python -m jgmm.evaluate", args=args)
    check_seed("--seed", options.seed)
    check_share("--quantile", options.quantile, zero=False)
    check_one_source(options)
    check_names(options, dataset=DATASETS, pixels=PIXELS)

    import jax

    from jgmm.commands import evaluation, outputs
    from jgmm.commands.inputs import images_for, open_run, other_images

    folder = options.out or options.run / "evaluation"
    outputs.check_folder(folder, evaluation.OUTPUTS, evaluation.PROG, options.force)
    source, config = open_run(options.run)
    train = evaluation.reference_log_probs(options.run, config, source, options.seed)
    images = images_for(config, options.data, options.dataset, options.data_dir, options.pixels)
    others = [other_images(name, options.data_dir, source.shape) for name in options.against]
    found = evaluation.evaluate_images(
        jax.random.key(options.seed), source, images, train, others, options.quantile, options.two_sided
    )
    print("\n".join(found.lines()))
    evaluation.write(folder, source, images, found)


if __name__ == "__main__":
    cli.run(main)

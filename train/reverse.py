"""`python -m train.reverse RUN`: a mixture source made of the images that a trained flow carries backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jgmm.commands import cli
from jgmm.commands.options import one_of
from jgmm.errors import check_count, check_number, check_seed
from jgmm.registry import SOLVERS

PROG = "python -m train.reverse"


@dataclass(frozen=True)
class Options:
    """Carry the images of a flow back to t = 0, and fit Gaussians to what they become: a source for
    `python -m train --source OUT --coupling semidiscrete --init-from RUN` in the same space."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m train`."""
    out: Path
    """The folder for the source."""
    k: int = 100
    """The number of Gaussians."""
    method: Literal["moments", "em"] = "moments"
    """Clusters of images by k-means, each with the mean and the variances of what its images become (moments; COT-FM,
    CVPR 2026), or a mixture fitted to all of these by EM (em)."""
    shrinkage: float = 50.0
    """The number of images that the variances of all clusters together count for in each, for --method moments."""
    solver: Annotated[str, one_of(SOLVERS)] = "heun"
    """The solver of the flow."""
    nfe: int = 20
    """The number of evaluations of the network."""
    batch_size: int = 250
    """The number of images carried at a time."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files, if it has moved."""
    seed: int = 0
    """The seed of the fit."""

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the run is seen."""
        from train.sampler import check_solver

        check_solver(self.solver, self.nfe)
        check_count("--k", self.k)
        check_count("--batch-size", self.batch_size)
        check_number("--shrinkage", self.shrinkage, least=0)
        check_seed("--seed", self.seed)


def parse(args: Sequence[str] | None) -> Options:
    """The options of a command line."""
    return cli.parse(Options, prog=PROG, args=args)


def main(args: Sequence[str] | None = None) -> None:
    """Parse, carry the images back, fit, write."""
    options = parse(args)
    options.check()

    from train import backward

    cli.compile_once()
    backward.make_source(options)


if __name__ == "__main__":
    cli.run(main)

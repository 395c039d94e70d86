"""`python -m train.evaluate RUN`: how good the images of a trained flow are, at every number of evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jgmm.commands import cli, outputs
from jgmm.commands.options import one_of
from jgmm.errors import check, check_count, check_seed
from jgmm.registry import SOLVERS
from train.registry import FEATURES

PROG = "python -m train.evaluate"


@dataclass(frozen=True)
class Options:
    """Compare the images of a trained flow with real ones."""

    run: tyro.conf.Positional[Path]
    """The run folder, written by `python -m train`."""
    nfe: tuple[int, ...] = (1, 2, 5, 10, 20, 100)
    """The numbers of evaluations of the network that images are made with [beside those in --out that were judged with
    the same options]."""
    n: int = 10_000
    """The number of images of each kind [at most as many real ones as there are]."""
    solver: Annotated[str, one_of(SOLVERS)] = "euler"
    """The solver of the flow."""
    features: Annotated[tuple[str, ...], one_of(FEATURES)] = ("efficientnet-lite0", "pca")
    """The features in which Fréchet's and the kernel's distance, precision, recall, density and coverage are taken."""
    inception_weights: Path | None = None
    """The weights of the network that FID is defined by, .npz, made by `python -m train.metrics.inception`: adds its
    features, and calls its Fréchet distance FID."""
    prune: bool = False
    """Reject draws of x0 along directions in which no image lies."""
    likelihood: int = 0
    """The number of real images whose likelihood is computed, in bits per dimension."""
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    """The trace of the Jacobian for the likelihood: estimated, or exact."""
    parameters: Literal["average", "last"] = "average"
    """The parameters to use: their running average, or those of the last step."""
    step: int | None = None
    """The step of the checkpoint [default: the newest]."""
    batch_size: int = 250
    """The number of images drawn at a time."""
    data_dir: Path | None = None
    """The folder that holds the CIFAR-10 files, if it has moved."""
    out: Path | None = None
    """The folder for the numbers and the pictures [default: RUN/evaluation]."""
    force: bool = False
    """Overwrite files in --out that this command has not written."""
    seed: int = 0
    """The seed of the draws."""

    @property
    def folder(self) -> Path:
        """Where the numbers are written."""
        return self.out or self.run / "evaluation"

    def check(self) -> None:
        """Raise InputError for any value that can be refused before the run is seen."""
        from train.sampler import check_solver

        for name in self.features:
            FEATURES.canonical(name)
        check(len(self.nfe) > 0, "--nfe needs at least one number.")
        for nfe in self.nfe:
            check_solver(self.solver, nfe)
        fixed = SOLVERS[self.solver]().steps is not None
        check(fixed, f"--solver {self.solver} chooses its own number of evaluations, which images are judged by here.")
        check_count("--n", self.n, 2)
        check_count("--likelihood", self.likelihood, 0)
        check(self.likelihood != 1, "--likelihood 1 has no standard error: give 2 or more images.")
        check_count("--batch-size", self.batch_size)
        check_seed("--seed", self.seed)
        both = self.prune and self.likelihood > 0
        check(not both, "--likelihood is of the source itself, whose density --prune changes: give one of them.")


def parse(args: Sequence[str] | None) -> Options:
    """The options of a command line."""
    return cli.parse(Options, prog=PROG, args=args)


def main(args: Sequence[str] | None = None) -> None:
    """Parse, load, judge, write."""
    options = parse(args)
    options.check()
    cli.compile_once()

    from train import judging

    outputs.check_folder(options.folder, judging.OUTPUTS, PROG, options.force)
    for found in judging.judge(options):
        judging.write(options, found)
    print("\n".join(found.lines()))
    print(*(options.folder / name for name in judging.OUTPUTS), sep="\n")


if __name__ == "__main__":
    cli.run(main)

"""`python -m jgmm`: the commands, a line each, and the version."""

import sys
from collections.abc import Sequence

import jgmm
from jgmm.commands import cli
from jgmm.errors import InputError

COMMANDS = {
    "python -m jgmm.fit": "fit a mixture to images and write it, with pictures, to a run folder",
    "python -m jgmm.generate RUN": "draw images from a fitted mixture",
    "python -m jgmm.sweep": "fit many mixtures to the same data, compare them, keep the best",
    "python -m jgmm.evaluate RUN": "likelihood, clusters and anomalies of data under a fitted mixture",
    "python -m jgmm.complete RUN": "one half of an image given the other",
    "python -m jgmm.convert IN OUT": "mixtures between run folders and the files of other libraries",
    "python -m train": "train a flow from a source to images (from a checkout)",
    "python -m train.sample RUN": "images of a trained flow (from a checkout)",
}


def main(args: Sequence[str] | None = None) -> None:
    """Print what there is."""
    args = sys.argv[1:] if args is None else args
    cli.show_version(args)
    if args and set(args) - {"-h", "--help"}:
        raise InputError(f"unknown command {' '.join(args)!r}: the commands are {', '.join(COMMANDS)}.")
    print(f"jgmm {jgmm.__version__}: Gaussian mixtures of images, and flow-matching sources drawn from them.\n")
    width = max(map(len, COMMANDS))
    for command, purpose in COMMANDS.items():
        print(f"  {command:{width}}  {purpose}")
    print("\nEvery command explains itself with --help.")


if __name__ == "__main__":
    cli.run(main)

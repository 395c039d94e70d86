"""`python -m train`: train a flow from a source to images."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from jgmm.commands import cli
from train import config


def main(args: Sequence[str] | None = None) -> None:
    """Parse the options, those of the interrupted run first when resuming, and train."""
    args = sys.argv[1:] if args is None else args
    options = config.parse(args)
    if not options.resume:
        options.check()

    from jgmm.numerics import processes

    if options.distributed:
        processes.join()

    import jax

    from jgmm.checkpoint.lock import locked
    from train import loop, runs

    cli.compile_once()
    with locked(options.run_folder) if jax.process_index() == 0 else nullcontext():
        if options.resume:
            options = config.resumed(args, runs.kept_config(options.run_folder))
            options.check()
        loop.train(options)


if __name__ == "__main__":
    cli.run(main)

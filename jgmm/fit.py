"""`python -m jgmm.fit`: fit, save and picture a mixture of images."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout

from jgmm.commands import cli
from jgmm.commands.options import Options

PROG = "python -m jgmm.fit"


def parse(args: Sequence[str] | None, default: Options | None = None) -> Options:
    """The options of a command line; those not given are `default`'s."""
    return cli.parse(Options, prog=PROG, args=args, default=default)


def main(args: Sequence[str] | None = None) -> None:
    """Parse the options, those of the interrupted run first when resuming, and fit."""
    args = sys.argv[1:] if args is None else args
    options = parse(args)
    options.check()

    import jax

    from jgmm.checkpoint.lock import locked
    from jgmm.commands import fitting
    from jgmm.numerics.processes import first_decides, join
    from jgmm.numerics.sharding import on_devices

    if options.distributed:
        join()
    cli.compile_once()
    with ExitStack() as held:
        if jax.process_index() > 0:  # the first process speaks for all
            held.enter_context(redirect_stdout(held.enter_context(open(os.devnull, "w"))))
        first_decides(lambda: held.enter_context(locked(options.run_folder)))
        if options.resume:
            kept = fitting.options_to_resume(options.run_folder)
            # Parsed again with the options of the run as defaults, a flag that is given and differs shows.
            options = fitting.check_resumed(kept, parse(args, default=kept))
            options.check()
        jax.config.update("jax_enable_x64", options.dtype == "float64")
        one = options.blocks is not None and options.mesh is None  # on which products of block mixtures are fitted
        with jax.default_matmul_precision(options.precision), nullcontext() if one else on_devices(options.mesh):
            fitting.run(options)


if __name__ == "__main__":
    cli.run(main)
